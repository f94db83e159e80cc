-- The company's tables, with a machine charged by each method, a licence, a rent paid for a year, and a project.
CREATE TABLE assets (
    id bigint PRIMARY KEY, name text NOT NULL, kind text NOT NULL, method text NOT NULL,
    cost numeric(14,2) NOT NULL, salvage numeric(14,2) NOT NULL, life_months integer NOT NULL
);
CREATE TABLE asset_months (asset_id bigint, month_no integer, charged_on date NOT NULL, PRIMARY KEY (asset_id, month_no));
CREATE TABLE prepayments (id bigint PRIMARY KEY, name text NOT NULL, cost numeric(14,2) NOT NULL, first_day date NOT NULL, last_day date NOT NULL);
CREATE TABLE prepayment_months (prepayment_id bigint, from_day date, to_day date NOT NULL, PRIMARY KEY (prepayment_id, from_day));
CREATE TABLE research_costs (
    id bigint PRIMARY KEY, project text NOT NULL, stage text NOT NULL, cost numeric(14,2) NOT NULL, share numeric(5,4) NOT NULL, spent_on date NOT NULL
);

INSERT INTO assets VALUES
    (1, 'lathe', 'tangible', 'straight-line', 100000.00, 4000.00, 60),
    (2, 'press', 'tangible', 'declining-balance', 100000.00, 4000.00, 60),
    (3, 'mill', 'tangible', 'sum-of-years', 100000.00, 4000.00, 60),
    (4, 'licence', 'intangible', 'straight-line', 10000.00, 0, 36);
INSERT INTO asset_months
    SELECT id, n, (date '2026-01-31' + make_interval(months => n - 1))::date FROM assets, generate_series(1, life_months) n;
INSERT INTO prepayments VALUES (1, 'rent', 12000.00, '2026-01-15', '2027-01-14');
INSERT INTO prepayment_months
    SELECT 1, day, (day + interval '1 month' - interval '1 day')::date
    FROM (SELECT (date '2026-01-01' + make_interval(months => n))::date AS day FROM generate_series(0, 12) n) d;
INSERT INTO research_costs VALUES
    (1, 'engine', 'research', 30000.00, 0, '2026-02-10'), (2, 'engine', 'development', 70000.01, 0.6500, '2026-08-20');
