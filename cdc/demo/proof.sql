-- The balance (debit less credit) of every account, from the shop's tables alone: one figure per account, put together the way an
-- auditor would, not rule by rule. It shares nothing with the ledger but the meaning of the accounts.
WITH
  shipped AS (SELECT * FROM orders WHERE status = 'shipped'),
  sales AS (SELECT coalesce(sum(total), 0) AS total, coalesce(sum(tax), 0) AS tax FROM shipped),
  returned AS (
    SELECT coalesce(sum(amount), 0) AS amount, coalesce(sum(tax), 0) AS tax, coalesce(sum(cost) FILTER (WHERE restocked), 0) AS cost FROM refunds
  ),
  sold AS (
    SELECT coalesce(sum(l.cost) FILTER (WHERE NOT l.service), 0) AS goods, coalesce(sum(l.cost) FILTER (WHERE l.service), 0) AS services
    FROM order_lines l JOIN shipped o ON o.id = l.order_id
  ),
  bought AS (
    SELECT coalesce(sum(amount), 0) AS amount, coalesce(sum(tax), 0) AS tax, coalesce(sum(amount) FILTER (WHERE paid_at IS NOT NULL), 0) AS paid
    FROM purchases
  ),
  held AS (SELECT coalesce(sum(p.amount), 0) AS amount FROM payments p JOIN orders o ON o.id = p.order_id WHERE o.status = 'confirmed'),
  fees AS (SELECT coalesce(sum(fee), 0) AS fee FROM payments),
  money AS (
    SELECT coalesce(sum(amount) FILTER (WHERE method = 'cash'), 0) AS cash,
      coalesce(sum(amount) FILTER (WHERE method = 'wallet'), 0) AS wallet,
      coalesce(sum(amount) FILTER (WHERE method IN ('bank', 'card')), 0) AS bank
    FROM (
      SELECT method, amount - fee AS amount FROM payments
      UNION ALL SELECT method, -amount FROM refunds
      UNION ALL SELECT 'bank', -paid FROM bought
    ) flows
  )
SELECT account, balance::numeric(38,6) AS balance
FROM sales, returned, sold, bought, held, fees, money
CROSS JOIN LATERAL (VALUES
  ('1001', money.cash),
  ('1002', money.bank),
  ('1012', money.wallet),
  ('1122', (SELECT coalesce(sum(total - paid - refunded), 0) FROM shipped)),
  ('1405', bought.amount - bought.tax - sold.goods + returned.cost),
  ('2202', bought.paid - bought.amount),
  ('2203', -held.amount),
  ('2221', bought.tax - sales.tax + returned.tax),
  ('2241', -sold.services),
  ('5001', sales.tax - sales.total + returned.amount - returned.tax),
  ('5401', sold.goods + sold.services - returned.cost),
  ('5603', fees.fee)
) balances (account, balance)
WHERE balance <> 0
ORDER BY account
