-- The balance (debit less credit) of every account, from oscar's tables alone: one figure per account, put together the way an auditor
-- would, over all tables, not rule by rule. Money is taken from payment_source, which keeps totals, not from the transactions.
WITH
  sold AS (SELECT * FROM order_order WHERE status IN ('Shipped', 'Complete')),
  -- An order that comes back gives all its money back: what was refunded of one that did not is an allowance.
  allowed AS (SELECT amount_refunded AS amount, ROUND(amount_refunded * 13 / 113, 2) AS tax FROM payment_source JOIN sold ON sold.id = order_id),
  money AS (
    SELECT IF(t.code IN ('alipay', 'wechat-pay'), '1012', '1002') AS account, s.amount_debited - s.amount_refunded AS amount
    FROM payment_source s JOIN payment_sourcetype t ON t.id = s.source_type_id
  ),
  balances AS (
    SELECT account, SUM(amount) AS balance FROM money GROUP BY account
    UNION ALL
    SELECT '1122', (SELECT COALESCE(SUM(total_incl_tax), 0) FROM sold) - (SELECT COALESCE(SUM(amount), 0) FROM money)
      - (SELECT COALESCE(SUM(amount), 0) FROM allowed)
    UNION ALL
    SELECT '2221', (SELECT COALESCE(SUM(tax), 0) FROM allowed) - (SELECT COALESCE(SUM(total_incl_tax - total_excl_tax), 0) FROM sold)
    UNION ALL
    SELECT '5001', (SELECT COALESCE(SUM(amount - tax), 0) FROM allowed) - (SELECT COALESCE(SUM(total_excl_tax - shipping_excl_tax), 0) FROM sold)
    UNION ALL
    SELECT '5051', -(SELECT COALESCE(SUM(shipping_excl_tax), 0) FROM sold)
  )
SELECT account, balance FROM balances WHERE balance <> 0 ORDER BY account
