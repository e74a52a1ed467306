-- Statistics for the planner, so that sizes are known. public.stock is left out on purpose: some tables have none.

DO $$
DECLARE
    relation regclass;
BEGIN
    FOR relation IN
        SELECT oid FROM pg_class
        WHERE relkind IN ('r', 'p', 'm') AND oid <> 'public.stock'::regclass
          AND relnamespace IN ('public'::regnamespace, 'billing'::regnamespace) AND NOT relispartition
    LOOP
        EXECUTE format('ANALYZE %s', relation);
    END LOOP;
END
$$;
