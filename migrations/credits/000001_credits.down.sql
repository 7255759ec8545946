-- Drops the tables and their data.
DROP VIEW "vsync".content_digest_credit_reservations, "vsync".content_digest_credit_transactions,
    "vsync".content_digest_credit_accounts;
DROP TABLE "vsync".credit_reservations, "vsync".credit_transactions, "vsync".credit_accounts;
DROP AGGREGATE "vsync".credit_balances(numeric, numeric, bigint, numeric, numeric);
DROP FUNCTION "vsync".grant_credits_to_service(name), "vsync".tenants_with_expired_credits(),
    "vsync".credit_balances_step(numeric[], numeric, numeric, bigint, numeric, numeric);
