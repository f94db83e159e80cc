-- The demo's shop: a small chain of shops in PostgreSQL, as its own software would keep it. All names are made up.
-- Prices and amounts include tax. What holds over several tables holds only for whole transactions:
--   orders.total, tax  = the sums of its lines          orders.paid     = its payments less its refunds
--   orders.refunded    = the sum of its refunds         order_lines.shipped_at, payments.applied_at follow orders.shipped_at

CREATE TYPE customer_kind AS ENUM ('person', 'firm');
CREATE TYPE order_status AS ENUM ('draft', 'confirmed', 'shipped', 'cancelled');
CREATE TYPE payment_method AS ENUM ('bank', 'card', 'wallet', 'cash');
CREATE TYPE payment_kind AS ENUM ('deposit', 'payment');

CREATE TABLE stores (
  id int PRIMARY KEY,
  code text NOT NULL UNIQUE,
  name text NOT NULL,
  city text NOT NULL,
  closed_at timestamptz
);

CREATE TABLE products (
  id int PRIMARY KEY,
  sku text NOT NULL UNIQUE,
  name text NOT NULL,
  unit text NOT NULL,
  price numeric(18,2) NOT NULL CHECK (price > 0),
  cost numeric(18,2) NOT NULL CHECK (cost > 0),
  tax_percent int NOT NULL CHECK (tax_percent IN (13, 9, 6)),
  service boolean NOT NULL  -- done by partners who are owed its cost; the others come from stock
);

CREATE TABLE customers (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind customer_kind NOT NULL,
  name text NOT NULL,
  tax_no text UNIQUE,
  city text NOT NULL,
  note text,
  CHECK ((kind = 'firm') = (tax_no IS NOT NULL))
);

CREATE SEQUENCE order_numbers;
CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_no text NOT NULL UNIQUE DEFAULT 'XS' || lpad(nextval('order_numbers')::text, 8, '0'),
  store_id int NOT NULL REFERENCES stores,
  customer_id int NOT NULL REFERENCES customers,
  status order_status NOT NULL DEFAULT 'draft',
  ordered_at timestamptz NOT NULL DEFAULT now(),
  shipped_at timestamptz,
  total numeric(18,2) NOT NULL DEFAULT 0,
  tax numeric(18,2) NOT NULL DEFAULT 0,
  paid numeric(18,2) NOT NULL DEFAULT 0 CHECK (paid >= 0),
  refunded numeric(18,2) NOT NULL DEFAULT 0 CHECK (refunded >= 0),
  note text,
  CHECK (tax >= 0 AND tax < total OR total = 0 AND tax = 0),
  CHECK (paid + refunded <= total),
  CHECK ((status = 'shipped') = (shipped_at IS NOT NULL)),
  CHECK (status IN ('confirmed', 'shipped') OR paid = 0)
);
CREATE INDEX orders_by_status ON orders (status);

CREATE TABLE order_lines (
  order_id bigint REFERENCES orders ON DELETE CASCADE,
  line_no int CHECK (line_no > 0),
  product_id int NOT NULL REFERENCES products,
  quantity int NOT NULL CHECK (quantity > 0),
  unit_price numeric(18,2) NOT NULL CHECK (unit_price > 0),
  amount numeric(18,2) NOT NULL CHECK (amount = quantity * unit_price),
  tax_percent int NOT NULL,
  tax numeric(18,2) NOT NULL CHECK (tax = round(amount * tax_percent / (100 + tax_percent), 2)),
  unit_cost numeric(18,2) NOT NULL,
  cost numeric(18,2) NOT NULL CHECK (cost = quantity * unit_cost AND cost > 0),
  service boolean NOT NULL,
  shipped_at timestamptz,
  PRIMARY KEY (order_id, line_no)
);

CREATE TABLE payments (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id bigint NOT NULL REFERENCES orders,
  kind payment_kind NOT NULL DEFAULT 'payment',
  method payment_method NOT NULL,
  amount numeric(18,2) NOT NULL CHECK (amount > 0),
  fee numeric(18,2) NOT NULL DEFAULT 0 CHECK (fee >= 0 AND fee < amount),
  paid_at timestamptz NOT NULL DEFAULT now(),
  applied_at timestamptz,  -- when the goods of a deposit were shipped
  CHECK (kind = 'deposit' OR applied_at IS NULL),
  CHECK (fee = 0 OR method IN ('card', 'wallet'))
);
CREATE INDEX payments_by_order ON payments (order_id);

CREATE TABLE refunds (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  order_id bigint NOT NULL,
  line_no int NOT NULL,
  method payment_method NOT NULL,
  amount numeric(18,2) NOT NULL CHECK (amount > 0),
  tax numeric(18,2) NOT NULL CHECK (tax >= 0 AND tax < amount),
  cost numeric(18,2) NOT NULL CHECK (cost > 0),
  restocked boolean NOT NULL,  -- false: a service, or goods beyond sale; they stay in the cost of sales
  reason text NOT NULL,
  refunded_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (order_id, line_no),
  FOREIGN KEY (order_id, line_no) REFERENCES order_lines ON UPDATE CASCADE
);

CREATE TABLE purchases (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  supplier text NOT NULL,
  product_id int NOT NULL REFERENCES products,
  quantity int NOT NULL CHECK (quantity > 0),
  amount numeric(18,2) NOT NULL CHECK (amount > 0),
  tax numeric(18,2) NOT NULL CHECK (tax >= 0 AND tax < amount),
  received_at timestamptz NOT NULL DEFAULT now(),
  paid_at timestamptz
);

INSERT INTO stores (id, code, name, city) VALUES
  (1, 'HZ01', '云溪里总店', '杭州'), (2, 'CD01', '锦桥店', '成都'), (3, 'XM01', '鹭岸店', '厦门'), (4, 'NET', '网上商城', '杭州');

INSERT INTO products (id, sku, name, unit, price, cost, tax_percent, service) VALUES
  (1, 'CJ-001', '青瓷茶壶', '把', 268.00, 121.50, 13, false), (2, 'CJ-002', '白瓷盖碗', '套', 128.00, 52.30, 13, false),
  (3, 'CJ-003', '紫陶公道杯', '只', 96.00, 38.80, 13, false), (4, 'CJ-004', '竹制茶盘', '个', 318.00, 149.00, 13, false),
  (5, 'JJ-001', '棉麻桌布', '张', 89.90, 33.20, 13, false), (6, 'JJ-002', '香薰蜡烛', '支', 59.90, 17.60, 13, false),
  (7, 'JJ-003', '胡桃木托盘', '个', 139.00, 61.00, 13, false), (8, 'JJ-004', '保温水壶', '个', 199.00, 88.40, 13, false),
  (9, 'SP-001', '明前绿茶 250克', '罐', 288.00, 142.00, 13, false), (10, 'SP-002', '正山小种 200克', '罐', 168.00, 79.90, 13, false),
  (11, 'SP-003', '桂花乌龙 150克', '盒', 108.00, 44.70, 13, false), (12, 'SP-004', '坚果礼盒', '盒', 158.00, 83.60, 13, false),
  (13, 'NC-001', '高山大米 5公斤', '袋', 69.80, 46.50, 9, false), (14, 'NC-002', '冷榨茶油 500毫升', '瓶', 118.00, 71.20, 9, false),
  (15, 'NC-003', '荔枝蜂蜜 450克', '瓶', 78.00, 41.30, 9, false), (16, 'NC-004', '干香菇 300克', '袋', 56.00, 29.80, 9, false),
  (17, 'SJ-001', '《茶事笔记》', '册', 45.00, 22.50, 9, false), (18, 'SJ-002', '《四时食单》', '册', 58.00, 28.00, 9, false),
  (19, 'FW-001', '茶艺体验课', '人次', 180.00, 60.00, 6, true), (20, 'FW-002', '礼品包装', '次', 15.00, 4.20, 6, true),
  (21, 'FW-003', '同城配送', '次', 12.00, 8.00, 6, true), (22, 'CJ-005', '粗陶茶叶罐', '只', 76.00, 27.90, 13, false),
  (23, 'JJ-005', '蓝染抱枕', '个', 119.00, 48.00, 13, false), (24, 'SP-005', '陈皮普洱 357克', '饼', 236.00, 118.00, 13, false);

INSERT INTO customers (kind, name, tax_no, city)
SELECT 'person', f.name || g.name, NULL, (ARRAY['杭州', '成都', '厦门', '苏州', '长沙'])[1 + (f.n + g.n) % 5]
FROM unnest(ARRAY['赵', '钱', '孙', '李', '周', '吴', '郑', '王', '欧阳', '司徒']) WITH ORDINALITY f (name, n),
  unnest(ARRAY['小满', '立夏', '白露', '霜降', '若谷', '云舒', '知微', '听雨', '思齐', '怀瑾', '望舒', '清和']) WITH ORDINALITY g (name, n)
ORDER BY g.n, f.n;

INSERT INTO customers (kind, name, tax_no, city)
SELECT 'firm', c.name || f.name || k.name, '9199' || lpad((1000 * c.n + 100 * f.n + k.n)::text, 14, '0'), c.name
FROM unnest(ARRAY['杭州', '成都', '厦门']) WITH ORDINALITY c (name, n),
  unnest(ARRAY['示例云杉', '示例青禾', '示例石桥', '示例远帆']) WITH ORDINALITY f (name, n),
  unnest(ARRAY['商贸有限公司', '文化传播有限公司']) WITH ORDINALITY k (name, n)
ORDER BY c.n, f.n, k.n;
