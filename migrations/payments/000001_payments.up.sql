-- Payments and their totals.

-- ---------------------------------------------------------------------------------------------------------------
-- payments: append-only, partitioned by month on the time in the id.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".payments (
    id             uuid        NOT NULL DEFAULT "vsync".uuid_v7(now()),
    created_at     timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    requested_at   timestamptz NOT NULL,
    processed_at   timestamptz NOT NULL,
    amount         numeric     NOT NULL,
    correlation_id text        COLLATE "C" NOT NULL,
    processor      text        COLLATE "C" NOT NULL,
    -- GetPayment.
    CONSTRAINT payments_pkey PRIMARY KEY (id),
    CONSTRAINT payments_created_at_is_the_ids CHECK (created_at = "vsync".uuid_v7_time(id)),
    CONSTRAINT payments_correlation_id CHECK (char_length(correlation_id) BETWEEN 1 AND 255),
    -- numeric without a scale, because numeric(10,2) would round a third decimal.
    CONSTRAINT payments_amount CHECK (amount BETWEEN 0.01 AND 99999999.99 AND scale(amount) <= 2),
    CONSTRAINT payments_processor CHECK (processor ~ '^[a-z0-9_-]+$' AND octet_length(processor) <= 50),
    CONSTRAINT payments_requested_at CHECK (requested_at >= '1970-01-01 00:00Z' AND requested_at < '9999-01-01 00:00Z'),
    CONSTRAINT payments_processed_at CHECK (processed_at >= '1970-01-01 00:00Z' AND processed_at < '9999-01-01 00:00Z')
) PARTITION BY RANGE (id);

-- ListPayments, and the partial hours of GetPaymentsSummary from the index alone.
CREATE INDEX payments_processed_at_id_idx ON "vsync".payments (processed_at, id) INCLUDE (processor, amount);

-- Row triggers, which every partition has too.
CREATE TRIGGER payments_append_only BEFORE UPDATE OR DELETE ON "vsync".payments
    FOR EACH ROW EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER payments_truncated BEFORE TRUNCATE ON "vsync".payments
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

-- ---------------------------------------------------------------------------------------------------------------
-- payment_keys: each correlation id once. A unique index cannot span partitions. A key remains as long as its payment.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".payment_keys (
    correlation_id text COLLATE "C" NOT NULL,
    payment_id     uuid NOT NULL,
    CONSTRAINT payment_keys_pkey PRIMARY KEY (correlation_id),
    -- drop_payment_keys, and the check that a payment has its key.
    CONSTRAINT payment_keys_payment_id_key UNIQUE (payment_id),
    CONSTRAINT payment_keys_correlation_id CHECK (char_length(correlation_id) BETWEEN 1 AND 255)
);

COMMENT ON TABLE "vsync".payment_keys IS 'The correlation ids of payments, which are unique across all partitions.';

CREATE FUNCTION "vsync".refuse_key_removal() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM "vsync".payments WHERE id = OLD.payment_id) THEN
        RAISE EXCEPTION 'the payment of this key exists' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END
$$;

CREATE TRIGGER payment_keys_unchanged BEFORE UPDATE ON "vsync".payment_keys
    FOR EACH ROW EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER payment_keys_kept BEFORE DELETE ON "vsync".payment_keys
    FOR EACH ROW EXECUTE FUNCTION "vsync".refuse_key_removal();
CREATE TRIGGER payment_keys_truncated BEFORE TRUNCATE ON "vsync".payment_keys
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

-- ---------------------------------------------------------------------------------------------------------------
-- Totals. Each statement that inserts payments adds one row to payment_deltas for each hour and processor, because writers
-- that update one sum would wait for each other. fold_payment_totals adds the deltas to payment_hours and payment_totals
-- and deletes them, in one transaction: the sum that a snapshot sees is correct for that snapshot. Totals remain when
-- payments are past their retention.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".payment_deltas (
    transaction_id xid8        NOT NULL DEFAULT pg_current_xact_id(),
    seq            bigint      GENERATED ALWAYS AS IDENTITY,
    hour           timestamptz NOT NULL,
    payments       bigint      NOT NULL,
    amount         numeric     NOT NULL,
    processor      text        COLLATE "C" NOT NULL,
    CONSTRAINT payment_deltas_pkey PRIMARY KEY (transaction_id, seq),
    CONSTRAINT payment_deltas_payments CHECK (payments > 0),
    CONSTRAINT payment_deltas_amount CHECK (amount > 0)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_threshold = 2000, autovacuum_vacuum_insert_scale_factor = 0);

CREATE TABLE "vsync".payment_hours (
    hour      timestamptz NOT NULL,
    payments  bigint      NOT NULL,
    amount    numeric     NOT NULL,
    processor text        COLLATE "C" NOT NULL,
    -- GetPaymentsSummary with a range.
    CONSTRAINT payment_hours_pkey PRIMARY KEY (hour, processor),
    CONSTRAINT payment_hours_hour CHECK (extract(epoch FROM hour) % 3600 = 0),
    CONSTRAINT payment_hours_payments CHECK (payments > 0),
    CONSTRAINT payment_hours_amount CHECK (amount > 0)
) WITH (fillfactor = 50);

CREATE TABLE "vsync".payment_totals (
    payments  bigint  NOT NULL,
    amount    numeric NOT NULL,
    processor text    COLLATE "C" NOT NULL,
    CONSTRAINT payment_totals_pkey PRIMARY KEY (processor),
    CONSTRAINT payment_totals_payments CHECK (payments > 0),
    CONSTRAINT payment_totals_amount CHECK (amount > 0)
) WITH (fillfactor = 50);

COMMENT ON TABLE "vsync".payment_hours IS 'Number and sum of the payments of each hour (UTC) of processed_at, up to the last fold.';
COMMENT ON TABLE "vsync".payment_totals IS 'Number and sum of all payments of each processor, up to the last fold.';

-- One row, the last fold. It has deleted the deltas of all transactions below the horizon, so readers start there and skip
-- the dead rows of earlier folds, which an old snapshot may keep for hours.
CREATE TABLE "vsync".payment_fold (
    is_only        boolean NOT NULL DEFAULT true,
    transaction_id xid8    NOT NULL DEFAULT pg_current_xact_id(),
    horizon        xid8    NOT NULL DEFAULT '0',
    CONSTRAINT payment_fold_pkey PRIMARY KEY (is_only),
    CONSTRAINT payment_fold_is_only CHECK (is_only)
) WITH (fillfactor = 10);

INSERT INTO "vsync".payment_fold DEFAULT VALUES;

-- The upper bound excludes nothing. With a lower bound alone the planner expects a third of all rows.
CREATE VIEW "vsync".unfolded_payments AS
SELECT hour, processor, payments, amount FROM "vsync".payment_deltas
WHERE transaction_id BETWEEN
    (SELECT CASE WHEN "vsync".is_of_this_cluster(xmin, transaction_id) THEN horizon ELSE '0'::xid8 END
     FROM "vsync".payment_fold)
    AND '18446744073709551615'::xid8;

COMMENT ON VIEW "vsync".unfolded_payments IS 'The totals since the last fold.';

-- SECURITY DEFINER: the service's role cannot write totals itself. The service inserts the keys in the same statement; the
-- trigger adds those of payments that were inserted by hand.
CREATE FUNCTION "vsync".payments_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO "vsync".payment_keys (correlation_id, payment_id)
    SELECT correlation_id, id FROM new_rows WHERE NOT EXISTS (
        SELECT FROM "vsync".payment_keys AS k
        WHERE k.payment_id = new_rows.id AND k.correlation_id = new_rows.correlation_id
        OFFSET 0);  -- one index lookup for each row
    INSERT INTO "vsync".payment_deltas (hour, processor, payments, amount)
    SELECT date_trunc('hour', processed_at, 'UTC'), processor, count(*), sum(amount) FROM new_rows GROUP BY 1, 2;
    RETURN NULL;
END
$$;

CREATE TRIGGER payments_inserted AFTER INSERT ON "vsync".payments
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "vsync".payments_inserted();

CREATE FUNCTION "vsync".fold_payment_totals() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    folded bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('vsyncd fold_payment_totals "vsync"', 0))
       OR NOT EXISTS (SELECT FROM "vsync".unfolded_payments) THEN
        RETURN 0;
    END IF;
    WITH deltas AS (
        DELETE FROM "vsync".payment_deltas
        WHERE transaction_id BETWEEN
            (SELECT CASE WHEN "vsync".is_of_this_cluster(xmin, transaction_id) THEN horizon ELSE '0'::xid8 END
             FROM "vsync".payment_fold)
            AND '18446744073709551615'::xid8
        RETURNING hour, processor, payments, amount
    ), hours AS (
        INSERT INTO "vsync".payment_hours AS h (hour, processor, payments, amount)
        SELECT hour, processor, sum(payments), sum(amount) FROM deltas GROUP BY hour, processor
        ON CONFLICT (hour, processor) DO UPDATE
            SET payments = h.payments + excluded.payments, amount = h.amount + excluded.amount
    ), totals AS (
        INSERT INTO "vsync".payment_totals AS t (processor, payments, amount)
        SELECT processor, sum(payments), sum(amount) FROM deltas GROUP BY processor
        ON CONFLICT (processor) DO UPDATE
            SET payments = t.payments + excluded.payments, amount = t.amount + excluded.amount
    ), noted AS (
        UPDATE "vsync".payment_fold
        SET transaction_id = pg_current_xact_id(), horizon = pg_snapshot_xmin(pg_current_snapshot())
    )
    SELECT count(*) INTO folded FROM deltas;
    RETURN folded;
END
$$;

COMMENT ON FUNCTION "vsync".fold_payment_totals IS
    'Adds the deltas to the totals and returns their number; 0 if another session is doing so.';

CREATE FUNCTION "vsync".drop_payment_keys(step integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped bigint;
BEGIN
    DELETE FROM "vsync".payment_keys WHERE correlation_id IN (
        SELECT correlation_id FROM "vsync".payment_keys
        WHERE payment_id < (SELECT "vsync".uuid_v7_floor(min(begins)) FROM "vsync".partitions() WHERE parent = 'payments')
        ORDER BY payment_id LIMIT step);
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;

COMMENT ON FUNCTION "vsync".drop_payment_keys IS
    'Deletes up to `step` keys of payments whose partition was dropped. Returns their number.';

-- The content of payments in the manifest of a backup.
CREATE VIEW "vsync".content_digest_payments AS
SELECT count(*) || ':' || coalesce(bit_xor(('x' || md5(concat_ws(E'\x1f', id, correlation_id, processor, amount,
    extract(epoch FROM requested_at), extract(epoch FROM processed_at))))::bit(128))::text, '') AS digest
FROM "vsync".payments;

CREATE VIEW "vsync".content_digest_payment_totals AS
SELECT count(*) || ':' || coalesce(bit_xor(('x' || md5(concat_ws(E'\x1f', extract(epoch FROM hour), processor, payments,
    amount)))::bit(128))::text, '') AS digest
FROM (SELECT hour, processor, sum(payments) AS payments, sum(amount) AS amount
      FROM (SELECT hour, processor, payments, amount FROM "vsync".payment_hours
            UNION ALL SELECT hour, processor, payments, amount FROM "vsync".payment_deltas) AS every
      GROUP BY hour, processor) AS sums;

SELECT "vsync".register_partitioned_table('payments', 'month', 'PAYMENT_RETENTION_DAYS');

CREATE FUNCTION "vsync".grant_payments_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".payments, "vsync".payment_keys TO %I', service);
    EXECUTE format('GRANT SELECT ON "vsync".payment_deltas, "vsync".payment_hours, "vsync".payment_totals,
                    "vsync".payment_fold, "vsync".unfolded_payments TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".fold_payment_totals(), "vsync".drop_payment_keys(integer) TO %I', service);
END
$$;

REVOKE ALL ON FUNCTION "vsync".refuse_key_removal(), "vsync".payments_inserted(), "vsync".fold_payment_totals(),
    "vsync".drop_payment_keys(integer), "vsync".grant_payments_to_service(name) FROM PUBLIC;
