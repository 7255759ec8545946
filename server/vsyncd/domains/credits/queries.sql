-- Every statement has a tenant predicate, and row-level security restricts it to the same tenant.

-- name: lock_accounts
-- The first part of the transaction of grouped calls. The order of the locks prevents deadlocks.
SELECT FROM "vsync".credit_accounts
WHERE tenant = %(tenant)s AND account = ANY (ARRAY(
    SELECT account FROM json_to_recordset(%(rows)s::json) AS i (account text)))
ORDER BY account FOR UPDATE;

-- name: running
-- The part of the grouped statement before its change (see vsyncd.postgres.single_statement). Left out are: unknown and
-- closed accounts, references that are known or occur before, and reservations that would already have expired.
candidates AS MATERIALIZED (
    SELECT fresh.*, a.available AS old_available, a.reserved AS old_reserved, a.transactions,
           row_number() OVER (PARTITION BY fresh.account, fresh.reference ORDER BY audit_id) AS occurrence
    FROM fresh JOIN "vsync".credit_accounts AS a ON a.tenant = %(tenant)s AND a.account = fresh.account
    WHERE a.closed_at IS NULL AND (fresh.expires_at IS NULL OR fresh.expires_at > clock_timestamp())
      AND NOT EXISTS (
        SELECT FROM "vsync".credit_transactions AS t
        WHERE t.tenant = %(tenant)s AND t.account = fresh.account AND t.reference = fresh.reference
        OFFSET 0)  -- one index lookup for each row
), balanced AS MATERIALIZED (
    SELECT candidates.*,
           "vsync".credit_balances(old_available, old_reserved, transactions, available_change, reserved_change)
               OVER (PARTITION BY account ORDER BY audit_id) AS balances
    FROM candidates WHERE occurrence = 1
), decided AS MATERIALIZED (
    SELECT balanced.*, balances[1] AS available, balances[2] AS reserved, balances[3]::bigint AS number,
           balances[4] = 1 AS is_accepted
    FROM balanced
), updated AS (
    UPDATE "vsync".credit_accounts AS a
    SET available = last.available, reserved = last.reserved, transactions = last.number
    FROM (SELECT DISTINCT ON (account) account, available, reserved, number FROM decided
          ORDER BY account, audit_id DESC) AS last
    WHERE a.tenant = %(tenant)s AND a.account = last.account AND a.transactions < last.number
), reserved AS (
    INSERT INTO "vsync".credit_reservations (tenant, id, account, amount, expires_at)
    SELECT %(tenant)s, audit_id, account, amount, expires_at FROM decided WHERE is_accepted AND kind = 3
)

-- name: post_many
INSERT INTO "vsync".credit_transactions (tenant, id, account, number, kind, amount, available_change, reserved_change,
    available, reserved, reference, reservation_id, expires_at, created_at)
SELECT %(tenant)s, audit_id, account, number, kind, amount, available_change, reserved_change, available, reserved, reference,
       CASE WHEN kind = 3 THEN audit_id END, expires_at, created_at
FROM decided WHERE is_accepted
RETURNING id AS key;

-- name: decisions
SELECT json_object_agg(audit_id, json_build_array(is_accepted, number, available::text, reserved::text)) FROM decided;

-- name: lock_account
SELECT /*account_columns*/ FROM "vsync".credit_accounts WHERE tenant = %(tenant)s AND account = %(account)s FOR UPDATE;

-- name: get_account
SELECT /*account_columns*/ FROM "vsync".credit_accounts WHERE tenant = %(tenant)s AND account = %(account)s;

-- name: list_accounts
SELECT /*account_columns*/ FROM "vsync".credit_accounts
WHERE tenant = %(tenant)s AND account > %(after)s ORDER BY account LIMIT %(limit)s;

-- name: open_account
INSERT INTO "vsync".credit_accounts (tenant, account, opened_at) VALUES (%(tenant)s, %(account)s, %(opened_at)s)
ON CONFLICT DO NOTHING RETURNING /*account_columns*/;

-- name: close_account
UPDATE "vsync".credit_accounts SET closed_at = %(closed_at)s WHERE tenant = %(tenant)s AND account = %(account)s
RETURNING /*account_columns*/;

-- name: get_by_reference
SELECT /*transaction_columns*/ FROM "vsync".credit_transactions
WHERE tenant = %(tenant)s AND account = %(account)s AND reference = %(reference)s;

-- name: list_transactions
SELECT /*transaction_columns*/ FROM "vsync".credit_transactions
WHERE tenant = %(tenant)s AND account = %(account)s AND number < %(below)s ORDER BY number DESC LIMIT %(limit)s;

-- name: get_reservation
-- The account is locked. An open reservation that has expired reads as expired.
SELECT id, account, amount, CASE WHEN state = 1 AND expires_at <= clock_timestamp() THEN 4::smallint ELSE state END,
       expires_at, closed_at
FROM "vsync".credit_reservations WHERE tenant = %(tenant)s AND account = %(account)s AND id = %(id)s;

-- name: has_expired
SELECT %(expires_at)s::timestamptz <= clock_timestamp();

-- name: insert_reservation
INSERT INTO "vsync".credit_reservations (tenant, id, account, amount, expires_at)
VALUES (%(tenant)s, %(id)s, %(account)s, %(amount)s, %(expires_at)s);

-- name: close_reservation
UPDATE "vsync".credit_reservations SET state = %(state)s, closed_at = clock_timestamp()
WHERE tenant = %(tenant)s AND account = %(account)s AND id = %(id)s;

-- name: post_one
-- The account is locked.
WITH updated AS (
    UPDATE "vsync".credit_accounts
    SET available = available + %(available_change)s, reserved = reserved + %(reserved_change)s, transactions = %(number)s
    WHERE tenant = %(tenant)s AND account = %(account)s
)
INSERT INTO "vsync".credit_transactions (tenant, id, account, number, kind, amount, available_change, reserved_change,
    available, reserved, reference, reservation_id, expires_at, created_at)
VALUES (%(tenant)s, %(id)s, %(account)s, %(number)s, %(kind)s, %(amount)s, %(available_change)s, %(reserved_change)s,
    %(available)s, %(reserved)s, %(reference)s, %(reservation_id)s, %(expires_at)s, %(created_at)s);

-- name: tenants_with_expired
SELECT "vsync".tenants_with_expired_credits();

-- name: accounts_with_expired
-- The accounts of the reservations that expired first, except those in `busy`.
SELECT DISTINCT account FROM (
    SELECT account FROM "vsync".credit_reservations
    WHERE tenant = %(tenant)s AND state = 1 AND expires_at <= now() AND account <> ALL (%(busy)s::text[])
    ORDER BY expires_at LIMIT %(step)s) AS due;

-- name: lock_free_accounts
-- Skips locked accounts, so that this transaction waits for no writer.
SELECT account FROM "vsync".credit_accounts
WHERE tenant = %(tenant)s AND account = ANY (%(accounts)s::text[]) ORDER BY account FOR UPDATE SKIP LOCKED;

-- name: limit_lock_wait
SELECT set_config('lock_timeout', '500ms', true);

-- name: expire
-- Releases expired reservations of locked accounts. A later statement than the lock, so that it reads their latest rows.
WITH due AS MATERIALIZED (
    SELECT account, id, amount, expires_at FROM (
        SELECT * FROM "vsync".credit_reservations
        WHERE tenant = %(tenant)s AND state = 1 AND expires_at <= now() ORDER BY expires_at
        OFFSET 0) AS expired  -- keeps the planner from reading all reservations of the accounts
    WHERE account = ANY (%(accounts)s::text[]) ORDER BY expires_at LIMIT %(step)s
), running AS MATERIALIZED (
    SELECT due.account, due.id, due.amount, a.available + sum(due.amount) OVER released AS available,
           a.reserved - sum(due.amount) OVER released AS reserved,
           a.transactions + row_number() OVER released AS number
    FROM due JOIN "vsync".credit_accounts AS a ON a.tenant = %(tenant)s AND a.account = due.account
    WINDOW released AS (PARTITION BY due.account ORDER BY due.expires_at, due.id)
), closed AS (
    UPDATE "vsync".credit_reservations AS r SET state = 4, closed_at = clock_timestamp()
    FROM running WHERE r.tenant = %(tenant)s AND r.account = running.account AND r.id = running.id
), updated AS (
    UPDATE "vsync".credit_accounts AS a
    SET available = last.available, reserved = last.reserved, transactions = last.number
    FROM (SELECT DISTINCT ON (account) * FROM running ORDER BY account, number DESC) AS last
    WHERE a.tenant = %(tenant)s AND a.account = last.account
), posted AS (
    INSERT INTO "vsync".credit_transactions (tenant, id, account, number, kind, amount, available_change, reserved_change,
        available, reserved, reservation_id, created_at)
    SELECT %(tenant)s, "vsync".uuid_v7(now()), account, number, 6, amount, amount, -amount, available, reserved, id,
           date_trunc('milliseconds', now())
    FROM running
)
SELECT count(*) FROM running;
