-- Drops the tables and their data.
SELECT "vsync".unregister_partitioned_table('payments');
DROP VIEW "vsync".content_digest_payment_totals, "vsync".content_digest_payments, "vsync".unfolded_payments;
DROP TABLE "vsync".payments, "vsync".payment_keys, "vsync".payment_deltas, "vsync".payment_hours, "vsync".payment_totals,
    "vsync".payment_fold;
DROP FUNCTION "vsync".grant_payments_to_service(name), "vsync".drop_payment_keys(integer), "vsync".fold_payment_totals(),
    "vsync".payments_inserted(), "vsync".refuse_key_removal();
