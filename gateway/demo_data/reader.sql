-- The least that a role for reading needs, as the documentation recommends it. The role itself exists already.
-- Also takes away what everybody may do by default: temporary tables, and writing large objects.

DO $$
DECLARE
    function regprocedure;
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO gateway_reader', current_database());
    FOR function IN
        SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^(lo_|lowrite)'
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', function);
    END LOOP;
END
$$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public, billing TO gateway_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public, billing TO gateway_reader;
REVOKE ALL ON billing.card_tokens FROM gateway_reader;
