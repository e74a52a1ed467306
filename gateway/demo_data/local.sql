-- What only the developer's own database has: a table that somebody tried something with.

CREATE TABLE public.scratch_imports (
    row_no integer,
    line text
);
INSERT INTO public.scratch_imports SELECT i, 'line ' || i FROM generate_series(1, 25) AS i;
