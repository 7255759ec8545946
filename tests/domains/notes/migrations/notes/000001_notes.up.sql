-- notes: short texts that are written once.

CREATE TABLE "vsync".notes (
    id         uuid        NOT NULL,
    title      text        COLLATE "C" NOT NULL,
    text       text        COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT notes_pkey PRIMARY KEY (id),
    CONSTRAINT notes_title_key UNIQUE (title),
    CONSTRAINT notes_title CHECK (char_length(title) BETWEEN 1 AND 100),
    CONSTRAINT notes_text CHECK (char_length(text) <= 1000),
    CONSTRAINT notes_created_at_is_the_ids CHECK (created_at = "vsync".uuid_v7_time(id))
);

CREATE TRIGGER notes_append_only BEFORE UPDATE OR DELETE ON "vsync".notes
    FOR EACH STATEMENT EXECUTE FUNCTION "vsync".refuse_change();

CREATE FUNCTION "vsync".grant_notes_to_service(service name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT SELECT, INSERT ON "vsync".notes TO %I', service);
END
$$;

REVOKE ALL ON FUNCTION "vsync".grant_notes_to_service(name) FROM PUBLIC;
