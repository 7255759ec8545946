-- name: create_note
INSERT INTO "vsync".notes (id, title, text, created_at)
VALUES (%(id)s, %(title)s, %(text)s, %(created_at)s)
ON CONFLICT (title) DO NOTHING
RETURNING id, title, text, created_at;

-- name: get_note
SELECT id, title, text, created_at FROM "vsync".notes WHERE id = %(id)s;

-- name: list_notes
SELECT id, title, text, created_at FROM "vsync".notes WHERE id > %(after)s ORDER BY id LIMIT %(limit)s;
