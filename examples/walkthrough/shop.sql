-- A few weeks of a small shop, as its own program would write them.
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, order_no text NOT NULL, customer_id bigint NOT NULL, status text NOT NULL,
    total numeric(12,2) NOT NULL, tax numeric(12,2) NOT NULL, shipped_at timestamptz);
CREATE TABLE payments (id bigint PRIMARY KEY, customer_id bigint NOT NULL, method text NOT NULL, amount numeric(12,2) NOT NULL,
    paid_at timestamptz NOT NULL);
INSERT INTO customers VALUES (1, '张三'), (2, '华东贸易'), (3, 'Miller & Co');
INSERT INTO orders VALUES
    (1, 'A-101', 1, 'shipped', 113.00, 13.00, '2026-01-05 10:00+08'),
    (2, 'A-102', 2, 'shipped', 2260.00, 260.00, '2026-01-12 15:30+08'),
    (3, 'A-103', 3, 'draft', 452.00, 52.00, NULL),
    (4, 'A-104', 2, 'shipped', 565.00, 65.00, '2026-02-03 09:00+08');
INSERT INTO payments VALUES
    (1, 1, 'cash', 113.00, '2026-01-05 10:05+08'),
    (2, 2, 'bank', 1000.00, '2026-01-20 11:00+08');
