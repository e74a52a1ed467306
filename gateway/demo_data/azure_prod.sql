-- An index that was made in production in a hurry and never reached the migrations.

CREATE INDEX orders_customer_placed_idx ON public.orders (customer_id, placed_at DESC);
