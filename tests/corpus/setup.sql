-- What the statements of this folder read and attack. PostgreSQL 15 to 18, by a superuser, into an empty database.
-- Extensions come last and are optional: what needs one says so.

-- A small shop, with every kind of column that the harmless statements read.
CREATE TYPE public.order_status AS ENUM ('new', 'paid', 'shipped', 'returned');
CREATE TYPE public.address AS (street text, city text, zip text);
CREATE DOMAIN public.sku AS text CHECK (VALUE ~ '^[A-Z]{2}[0-9]{3}$');
CREATE TABLE public.customers (
  id int PRIMARY KEY, name text NOT NULL, email text, country text, born date, home public.address,
  tags text[] DEFAULT '{}', joined timestamptz DEFAULT '2024-01-01 00:00:00+00', vip boolean DEFAULT false);
CREATE TABLE public.orders (
  id int PRIMARY KEY, customer_id int REFERENCES public.customers, status public.order_status DEFAULT 'new',
  total numeric(12,2), created_at timestamptz NOT NULL, note text, details jsonb, legacy json);
CREATE TABLE public.order_items (
  order_id int REFERENCES public.orders, line int, sku public.sku, quantity int, price numeric(10,2),
  PRIMARY KEY (order_id, line));
CREATE TABLE public.employees (id int PRIMARY KEY, name text, manager_id int, salary int, department text);
CREATE TABLE public.edges (source int, target int, weight int);
CREATE TABLE public.bookings (id int PRIMARY KEY, room int, during tstzrange, seats int4range, blocked int4multirange);
CREATE TABLE public.documents (
  id int PRIMARY KEY, title text, body text, search tsvector GENERATED ALWAYS AS (to_tsvector('english', body)) STORED);
CREATE TABLE public.files (id int PRIMARY KEY, content bytea, doc xml, ip inet, mac macaddr, place point, bits bit(8));
CREATE TABLE public.metrics (at timestamptz NOT NULL, name text, value float8) PARTITION BY RANGE (at);
CREATE TABLE public.metrics_2024 PARTITION OF public.metrics FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE public."Delete" (id int, "drop" text, "update" int, "select;" text, "from" date);
CREATE SCHEMA sales;
CREATE TABLE sales.targets (region text, year int, amount numeric);
CREATE VIEW public.paid_orders AS SELECT * FROM public.orders WHERE status = 'paid';
CREATE MATERIALIZED VIEW public.totals AS SELECT customer_id, sum(total) AS total FROM public.orders GROUP BY 1;
CREATE SEQUENCE public.order_numbers;

INSERT INTO public.customers SELECT i, 'Customer ' || i, 'c' || i || '@example.com', (ARRAY['DE','FR','US'])[1 + i % 3],
  date '1970-01-01' + i * 100, ROW('Street ' || i, 'City', '1000' || i)::public.address, ARRAY['a', 'b' || i]
  FROM generate_series(1, 20) AS i;
INSERT INTO public.orders SELECT i, 1 + i % 20, (enum_range(NULL::public.order_status))[1 + i % 4], i * 1.5,
  timestamptz '2024-03-01' + i * interval '1 day', 'please do not delete or drop; thanks',
  jsonb_build_object('items', jsonb_build_array(jsonb_build_object('sku', 'AB001', 'n', i)), 'gift', i % 2 = 0),
  '{"a": 1, "a": 2}' FROM generate_series(1, 100) AS i;
INSERT INTO public.order_items SELECT 1 + i % 100, i, 'AB' || lpad((i % 10)::text, 3, '0'), i % 5, 2.5
  FROM generate_series(1, 200) AS i;
INSERT INTO public.employees SELECT i, 'Employee ' || i, nullif(i / 3, 0), 1000 + i, (ARRAY['it','hr'])[1 + i % 2]
  FROM generate_series(1, 15) AS i;
INSERT INTO public.edges VALUES (1, 2, 5), (2, 3, 1), (3, 1, 2), (3, 4, 9);
INSERT INTO public.bookings VALUES
  (1, 1, '[2024-01-01,2024-01-03)', '[1,5)', '{[1,3),[7,9)}'), (2, 1, '[2024-01-02,)', '[3,9]', '{}');
INSERT INTO public.documents (id, title, body) VALUES
  (1, 'Cats', 'The quick brown cat jumps over lazy dogs'), (2, 'Dogs', 'DROP TABLE is only a phrase here');
INSERT INTO public.files (id, content, ip, mac, place, bits)
  VALUES (1, '\x0102', '10.0.0.1/24', '08:00:2b:01:02:03', '(1,2)', B'10101010');
DO $$ BEGIN UPDATE public.files SET doc = '<r><a n="1">x</a><a n="2">y</a></r>';
EXCEPTION WHEN feature_not_supported THEN RAISE NOTICE 'this server was built without XML'; END $$;
INSERT INTO public.metrics SELECT timestamptz '2024-01-01' + i * interval '1 hour', 'cpu', i FROM generate_series(0, 99) AS i;
INSERT INTO public."Delete" VALUES (1, 'x', 2, 'y', '2024-01-01');
INSERT INTO sales.targets VALUES ('north', 2024, 10), ('south', 2024, 20), ('north', 2025, 30);
REFRESH MATERIALIZED VIEW public.totals;

CREATE FUNCTION public.net(gross numeric, rate numeric DEFAULT 0.19) RETURNS numeric IMMUTABLE LANGUAGE sql
  AS 'SELECT round(gross / (1 + rate), 2)';
CREATE FUNCTION public.order_count(customer int) RETURNS bigint STABLE LANGUAGE sql
  AS 'SELECT count(*) FROM public.orders WHERE customer_id = customer';
CREATE FUNCTION public.label(public.customers) RETURNS text STABLE LANGUAGE sql AS 'SELECT $1.name || '' ('' || $1.country || '')''';
CREATE FUNCTION public.total(public.customers) RETURNS bigint VOLATILE LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION public.status(int) RETURNS text VOLATILE LANGUAGE sql AS 'SELECT ''x''';
CREATE AGGREGATE public.product(numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1');
CREATE OPERATOR public.<+> (leftarg = int, rightarg = int, function = int4pl);

-- What the attacks reach for. Whatever writes leaves a row here.
CREATE TABLE public.attack_log (note text);
CREATE TABLE public.secrets (id int, token text);
INSERT INTO public.secrets VALUES (1, 'sk-not-for-you');
CREATE FUNCTION public.log_write(note text) RETURNS int VOLATILE LANGUAGE plpgsql
  AS 'BEGIN INSERT INTO public.attack_log VALUES (note); RETURN 1; END';
CREATE FUNCTION public.liar(note text) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.log_write(note); END';
CREATE FUNCTION public.locking_liar() RETURNS int STABLE LANGUAGE sql AS 'SELECT pg_advisory_lock(4711); SELECT 1';
CREATE FUNCTION public.notifying_liar() RETURNS int STABLE LANGUAGE sql AS 'SELECT pg_notify(''attack'', ''x''); SELECT 1';
CREATE FUNCTION public.setting_liar() RETURNS text STABLE LANGUAGE sql AS 'SELECT set_config(''work_mem'', ''1GB'', false)';
CREATE FUNCTION public.definer_peek() RETURNS text STABLE SECURITY DEFINER LANGUAGE sql AS 'SELECT token FROM public.secrets';
CREATE FUNCTION public.stubborn() RETURNS int STABLE LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1..30 LOOP BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; RETURN 1;
END $$;
CREATE VIEW public.writing_view AS SELECT public.log_write('view') AS n;
CREATE VIEW public.numbering_view AS SELECT nextval('public.order_numbers') AS n;
CREATE VIEW public.locking_view AS SELECT public.locking_liar() AS n;
CREATE VIEW public.notifying_view AS SELECT public.notifying_liar() AS n;
CREATE VIEW public.sleeping_view AS SELECT 1 AS n FROM pg_sleep(60);
CREATE TYPE public.badge AS ENUM ('plain', 'gold');
CREATE FUNCTION public.badge_json(public.badge) RETURNS json VOLATILE LANGUAGE plpgsql
  AS 'BEGIN PERFORM public.log_write(''cast''); RETURN ''1''::json; END';
CREATE CAST (public.badge AS json) WITH FUNCTION public.badge_json(public.badge);
CREATE FUNCTION public.badge_number(public.badge) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT public.log_write(''cast'')';
CREATE CAST (public.badge AS int) WITH FUNCTION public.badge_number(public.badge) AS IMPLICIT;
CREATE DOMAIN public.checked AS int CHECK (public.liar('domain') > 0);
CREATE FUNCTION public.total_price(public.orders) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT public.log_write(''attribute'')';
CREATE FUNCTION public.shout(text) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT public.log_write($1)';
CREATE FUNCTION public.noisy_step(int, int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT public.log_write(''aggregate'')';
CREATE AGGREGATE public.noisy_sum(int) (sfunc = public.noisy_step, stype = int, initcond = '0');
CREATE FUNCTION public.noisy_compare(int, int) RETURNS boolean VOLATILE LANGUAGE sql AS 'SELECT public.log_write(''operator'') > 0';
CREATE OPERATOR public.=== (leftarg = int, rightarg = int, function = public.noisy_compare);
CREATE FUNCTION public.calm_compare(int, int) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT public.liar(''operator'') > 0';
CREATE OPERATOR public.==== (leftarg = int, rightarg = int, function = public.calm_compare);
CREATE TABLE public.tenant_rows (tenant text, secret text);
INSERT INTO public.tenant_rows VALUES ('me', 'mine'), ('them', 'theirs');
ALTER TABLE public.tenant_rows ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON public.tenant_rows USING (tenant = current_setting('app.tenant', true));
CREATE TABLE public.watched (id int);
INSERT INTO public.watched VALUES (1);
ALTER TABLE public.watched ENABLE ROW LEVEL SECURITY;
CREATE POLICY watched ON public.watched USING (public.log_write('policy') > 0);

-- A user's functions and operators under built-in names, in a schema that is searched before PostgreSQL's own.
CREATE SCHEMA shadow;
CREATE FUNCTION shadow.lower(text) RETURNS text VOLATILE LANGUAGE sql AS 'SELECT public.log_write($1)::text';
CREATE FUNCTION shadow.count(int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT public.log_write(''count'')';
CREATE FUNCTION shadow.now() RETURNS timestamptz VOLATILE LANGUAGE sql
  AS 'SELECT public.log_write(''now''); SELECT clock_timestamp()';
CREATE FUNCTION shadow.upper(text) RETURNS text STABLE SECURITY DEFINER LANGUAGE sql AS 'SELECT token FROM public.secrets';
CREATE FUNCTION shadow.json_value(jsonb, text) RETURNS text VOLATILE LANGUAGE sql AS 'SELECT public.log_write($2)::text';
CREATE FUNCTION shadow.plus(text, int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT public.log_write($1)';
CREATE OPERATOR shadow.+ (leftarg = text, rightarg = int, function = shadow.plus);
CREATE FUNCTION shadow.equals(public.badge, int) RETURNS boolean VOLATILE LANGUAGE sql AS 'SELECT public.log_write(''='') > 0';
CREATE OPERATOR shadow.= (leftarg = public.badge, rightarg = int, function = shadow.equals);

DO $$
DECLARE name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['dblink', 'tablefunc', 'xml2', 'pgcrypto', 'uuid-ossp', 'hstore', 'pg_trgm', 'adminpack', 'postgres_fdw', 'citext']
  LOOP
    BEGIN EXECUTE format('CREATE EXTENSION %I', name); EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'no extension %', name; END;
  END LOOP;
END $$;
