-- What the shop did before the ledger looked at it: 2,000 orders of the last 60 days, most of them shipped and paid.
-- The snapshot brings them into the books. `setseed` makes every run's past the same.
SELECT setseed(0.42);

INSERT INTO purchases (supplier, product_id, quantity, amount, tax, received_at, paid_at)
SELECT '示例供货' || (1 + p.id % 5) || '号', p.id, 500, a.amount, round(a.amount * p.tax_percent / (100 + p.tax_percent), 2),
  now() - interval '61 days', CASE WHEN p.id % 2 = 0 THEN now() - interval '31 days' END
FROM products p CROSS JOIN LATERAL (SELECT round(500 * p.cost * (100 + p.tax_percent) / 100, 2) AS amount) a
WHERE NOT p.service ORDER BY p.id;

INSERT INTO orders (store_id, customer_id, status, ordered_at)
SELECT 1 + floor(random() * 4)::int, 1 + floor(random() * 144)::int, 'confirmed', now() - interval '60 days' * (1 - n / 2001.0)
FROM generate_series(1, 2000) n;

INSERT INTO order_lines (order_id, line_no, product_id, quantity, unit_price, amount, tax_percent, tax, unit_cost, cost, service)
SELECT o.id, l.line_no, p.id, q.quantity, p.price, q.quantity * p.price, p.tax_percent,
  round(q.quantity * p.price * p.tax_percent / (100 + p.tax_percent), 2), p.cost, q.quantity * p.cost, p.service
FROM orders o CROSS JOIN LATERAL generate_series(1, 1 + (o.id % 4)::int) l (line_no)
CROSS JOIN LATERAL (SELECT 1 + floor(random() * 3 + 0 * l.line_no)::int AS quantity) q
JOIN products p ON p.id = 1 + (7 * o.id + 5 * l.line_no) % 24;

UPDATE orders o SET total = s.total, tax = s.tax
FROM (SELECT order_id, sum(amount) AS total, sum(tax) AS tax FROM order_lines GROUP BY 1) s WHERE s.order_id = o.id;

UPDATE orders SET status = 'shipped', shipped_at = ordered_at + interval '1 hour' WHERE id % 20 > 0;
UPDATE order_lines l SET shipped_at = o.shipped_at FROM orders o WHERE o.id = l.order_id;

INSERT INTO payments (order_id, method, amount, fee, paid_at)
SELECT id, (ARRAY['bank', 'card', 'wallet', 'cash'])[1 + id / 4 % 4]::payment_method, total,
  CASE WHEN id / 4 % 4 IN (1, 2) THEN round(total * 0.006, 2) ELSE 0 END, shipped_at + interval '10 minutes'
FROM orders WHERE status = 'shipped' AND id % 7 > 0 ORDER BY id;
UPDATE orders o SET paid = p.amount FROM payments p WHERE p.order_id = o.id;

UPDATE stores SET closed_at = now();
