-- Accounts of tenants, their ledgers, and reservations.
--
-- The account's row is locked by everything that changes its balances, its ledger or its reservations. So the ledger of an
-- account has no gaps, and each of its rows follows from the row before.

CREATE TABLE "vsync".credit_accounts (
    tenant       bytea         NOT NULL,
    opened_at    timestamptz   NOT NULL,
    closed_at    timestamptz,
    transactions bigint        NOT NULL DEFAULT 0,
    available    numeric(18,2) NOT NULL DEFAULT 0,
    reserved     numeric(18,2) NOT NULL DEFAULT 0,
    account      text          COLLATE "C" NOT NULL,
    -- Every method.
    CONSTRAINT credit_accounts_pkey PRIMARY KEY (tenant, account),
    CONSTRAINT credit_accounts_tenant CHECK (octet_length(tenant) = 32),
    CONSTRAINT credit_accounts_account CHECK (char_length(account) BETWEEN 1 AND 100),
    CONSTRAINT credit_accounts_available CHECK (available >= 0 AND available <> 'NaN'),
    CONSTRAINT credit_accounts_reserved CHECK (reserved >= 0 AND reserved <> 'NaN'),
    -- So that the release of a reservation never exceeds the range of a balance.
    CONSTRAINT credit_accounts_limit CHECK (available + reserved <= 9999999999999999.99),
    CONSTRAINT credit_accounts_transactions CHECK (transactions >= 0),
    CONSTRAINT credit_accounts_closed CHECK (closed_at IS NULL OR (available = 0 AND reserved = 0))
) WITH (fillfactor = 50);

COMMENT ON COLUMN "vsync".credit_accounts.tenant IS 'The HMAC of the tenant name.';
COMMENT ON COLUMN "vsync".credit_accounts.transactions IS 'The number of the last row in the ledger.';

CREATE TRIGGER credit_accounts_kept BEFORE DELETE ON "vsync".credit_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER credit_accounts_truncated BEFORE TRUNCATE ON "vsync".credit_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

SELECT "vsync".restrict_to_tenant('credit_accounts');

-- ---------------------------------------------------------------------------------------------------------------
-- The ledger. `available` and `reserved` are the balances after the transaction, and the changes what it has added.
-- Kinds: 1 credit, 2 debit, 3 reserve, 4 capture, 5 release, 6 expire.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".credit_transactions (
    tenant           bytea         NOT NULL,
    id               uuid          NOT NULL,
    number           bigint        NOT NULL,
    created_at       timestamptz   NOT NULL,
    expires_at       timestamptz,
    reservation_id   uuid,
    kind             smallint      NOT NULL,
    amount           numeric(18,2) NOT NULL,
    available_change numeric(18,2) NOT NULL,
    reserved_change  numeric(18,2) NOT NULL,
    available        numeric(18,2) NOT NULL,
    reserved         numeric(18,2) NOT NULL,
    account          text          COLLATE "C" NOT NULL,
    reference        text          COLLATE "C",
    -- ListTransactions.
    CONSTRAINT credit_transactions_pkey PRIMARY KEY (tenant, account, number),
    -- Each reference once, and the first result for a repeat.
    CONSTRAINT credit_transactions_reference_key UNIQUE (tenant, account, reference),
    CONSTRAINT credit_transactions_tenant CHECK (octet_length(tenant) = 32),
    CONSTRAINT credit_transactions_account CHECK (char_length(account) BETWEEN 1 AND 100),
    CONSTRAINT credit_transactions_reference CHECK (char_length(reference) BETWEEN 1 AND 255),
    CONSTRAINT credit_transactions_has_reference CHECK ((reference IS NULL) = (kind = 6)),
    CONSTRAINT credit_transactions_number CHECK (number >= 1),
    CONSTRAINT credit_transactions_amount CHECK (amount > 0 AND amount <> 'NaN'),
    CONSTRAINT credit_transactions_available CHECK (available >= 0 AND available <> 'NaN'),
    CONSTRAINT credit_transactions_reserved CHECK (reserved >= 0 AND reserved <> 'NaN'),
    CONSTRAINT credit_transactions_has_reservation CHECK ((reservation_id IS NULL) = (kind IN (1, 2))),
    CONSTRAINT credit_transactions_has_expiry CHECK ((expires_at IS NULL) = (kind <> 3)),
    CONSTRAINT credit_transactions_changes CHECK (CASE kind
        WHEN 1 THEN available_change = amount AND reserved_change = 0
        WHEN 2 THEN available_change = -amount AND reserved_change = 0
        WHEN 3 THEN available_change = -amount AND reserved_change = amount
        WHEN 4 THEN available_change >= 0 AND reserved_change = -amount - available_change
        WHEN 5 THEN available_change = amount AND reserved_change = -amount
        WHEN 6 THEN available_change = amount AND reserved_change = -amount
        ELSE false END)
);

COMMENT ON COLUMN "vsync".credit_transactions.tenant IS 'The HMAC of the tenant name.';

CREATE TRIGGER credit_transactions_append_only BEFORE UPDATE OR DELETE ON "vsync".credit_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER credit_transactions_truncated BEFORE TRUNCATE ON "vsync".credit_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

SELECT "vsync".restrict_to_tenant('credit_transactions');

-- ---------------------------------------------------------------------------------------------------------------
-- Reservations have the id of the transaction that made them. States: 1 open, 2 captured, 3 released, 4 expired.
-- ---------------------------------------------------------------------------------------------------------------

CREATE TABLE "vsync".credit_reservations (
    tenant     bytea         NOT NULL,
    id         uuid          NOT NULL,
    expires_at timestamptz   NOT NULL,
    closed_at  timestamptz,
    state      smallint      NOT NULL DEFAULT 1,
    amount     numeric(18,2) NOT NULL,
    account    text          COLLATE "C" NOT NULL,
    -- Capture and Release.
    CONSTRAINT credit_reservations_pkey PRIMARY KEY (tenant, account, id),
    CONSTRAINT credit_reservations_tenant CHECK (octet_length(tenant) = 32),
    CONSTRAINT credit_reservations_account CHECK (char_length(account) BETWEEN 1 AND 100),
    CONSTRAINT credit_reservations_expires_at CHECK (isfinite(expires_at)),
    CONSTRAINT credit_reservations_state CHECK (state BETWEEN 1 AND 4),
    CONSTRAINT credit_reservations_closed CHECK ((closed_at IS NULL) = (state = 1)),
    CONSTRAINT credit_reservations_amount CHECK (amount > 0 AND amount <> 'NaN')
) WITH (fillfactor = 70);

-- The job that releases expired reservations.
CREATE INDEX credit_reservations_open_idx ON "vsync".credit_reservations (tenant, expires_at) WHERE state = 1;

COMMENT ON COLUMN "vsync".credit_reservations.tenant IS 'The HMAC of the tenant name.';

CREATE TRIGGER credit_reservations_kept BEFORE DELETE ON "vsync".credit_reservations
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_change();
CREATE TRIGGER credit_reservations_truncated BEFORE TRUNCATE ON "vsync".credit_reservations
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_truncate();

SELECT "vsync".restrict_to_tenant('credit_reservations');

-- ---------------------------------------------------------------------------------------------------------------
-- Running balances. As a window function over the transactions of one account, credit_balances returns for each one the
-- available and the reserved balance, the number of the last accepted transaction, and 1 if this one was accepted. One that
-- would make a balance negative or too large is left out.
-- ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION "vsync".credit_balances_step(
    balances numeric[], available numeric, reserved numeric, number bigint, available_change numeric, reserved_change numeric)
    RETURNS numeric[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT CASE WHEN b[1] + available_change >= 0 AND b[2] + reserved_change >= 0
                     AND b[1] + b[2] + available_change + reserved_change <= 9999999999999999.99
                    THEN ARRAY[b[1] + available_change, b[2] + reserved_change, b[3] + 1, 1]
                    ELSE ARRAY[b[1], b[2], b[3], 0] END
        FROM (SELECT coalesce(balances, ARRAY[available, reserved, number, 0])) AS before (b));

CREATE AGGREGATE "vsync".credit_balances(
    available numeric, reserved numeric, number bigint, available_change numeric, reserved_change numeric) (
    SFUNC = "vsync".credit_balances_step, STYPE = numeric[], PARALLEL = SAFE);

-- SECURITY DEFINER: a session of the service's role sees one tenant only. Reads one index entry for each tenant.
CREATE FUNCTION "vsync".tenants_with_expired_credits() RETURNS SETOF bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tenants AS (
        (SELECT tenant FROM "vsync".credit_reservations WHERE state = 1 ORDER BY tenant LIMIT 1)
        UNION ALL
        SELECT (SELECT r.tenant FROM "vsync".credit_reservations AS r
                WHERE r.tenant > tenants.tenant AND r.state = 1 ORDER BY r.tenant LIMIT 1)
        FROM tenants WHERE tenants.tenant IS NOT NULL
    )
    SELECT tenant FROM tenants
    WHERE (SELECT r.expires_at FROM "vsync".credit_reservations AS r
           WHERE r.tenant = tenants.tenant AND r.state = 1 ORDER BY r.expires_at LIMIT 1) <= now()
$$;

COMMENT ON FUNCTION "vsync".tenants_with_expired_credits IS 'Returns the tenants with open reservations that have expired.';

-- The content of credits in the manifest of a backup.
CREATE VIEW "vsync".content_digest_credit_accounts AS
SELECT count(*) || ':' || coalesce(bit_xor(('x' || md5(concat_ws(E'\x1f', encode(tenant, 'hex'), account, available, reserved,
    transactions, extract(epoch FROM opened_at), extract(epoch FROM closed_at))))::bit(128))::text, '') AS digest
FROM "vsync".credit_accounts;

CREATE VIEW "vsync".content_digest_credit_transactions AS
SELECT count(*) || ':' || coalesce(bit_xor(('x' || md5(concat_ws(E'\x1f', encode(tenant, 'hex'), account, number, id, kind,
    amount, available, reserved, reservation_id, reference, extract(epoch FROM created_at),
    extract(epoch FROM expires_at))))::bit(128))::text, '') AS digest
FROM "vsync".credit_transactions;

CREATE VIEW "vsync".content_digest_credit_reservations AS
SELECT count(*) || ':' || coalesce(bit_xor(('x' || md5(concat_ws(E'\x1f', encode(tenant, 'hex'), account, id, state, amount,
    extract(epoch FROM expires_at), extract(epoch FROM closed_at))))::bit(128))::text, '') AS digest
FROM "vsync".credit_reservations;

CREATE FUNCTION "vsync".grant_credits_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".credit_accounts, "vsync".credit_transactions,
                    "vsync".credit_reservations TO %I', service);
    EXECUTE format('GRANT UPDATE (available, reserved, transactions, closed_at) ON "vsync".credit_accounts TO %I', service);
    EXECUTE format('GRANT UPDATE (state, closed_at) ON "vsync".credit_reservations TO %I', service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION "vsync".tenants_with_expired_credits(),
                    "vsync".credit_balances_step(numeric[], numeric, numeric, bigint, numeric, numeric),
                    "vsync".credit_balances(numeric, numeric, bigint, numeric, numeric) TO %I', service);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;
