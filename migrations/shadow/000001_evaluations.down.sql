-- Drops the evaluations and their rollups.
SELECT "vsync".unregister_partitioned_table('evaluation_rollups');
SELECT "vsync".unregister_partitioned_table('evaluations');
DROP VIEW "vsync".content_digest_evaluation_rollups, "vsync".content_digest_evaluations, "vsync".divergence_summary,
    "vsync".evaluation_hours;
DROP TABLE "vsync".evaluations, "vsync".evaluation_rollups;
DROP FUNCTION "vsync".grant_shadow_to_service(name),
    "vsync".evaluations_containing(jsonb, jsonb, uuid, uuid, integer),
    "vsync".evaluations_of_candidate(text, text, boolean, jsonb, jsonb, uuid, uuid, integer, integer),
    "vsync".fold_evaluation_rollups(),
    "vsync".evaluations_inserted(), "vsync".latency_quantile(bigint[], float8);
DROP AGGREGATE "vsync".sum_histograms(bigint[]), "vsync".latency_histogram(bigint);
DROP FUNCTION "vsync".add_histograms(bigint[], bigint[]), "vsync".add_latency(bigint[], bigint),
    "vsync".latency_bounds();
