-- The roles and the database of docker-compose.yml. The image of PostgreSQL runs this file once, for an empty volume.
\getenv owner_password OWNER_PASSWORD
\getenv service_password DB_PASSWORD
-- CREATEDB is for the temporary database of `vsyncd backup verify --restore`.
CREATE ROLE vsync_owner LOGIN CREATEDB PASSWORD :'owner_password';
CREATE ROLE vsync LOGIN PASSWORD :'service_password';
CREATE DATABASE vsync OWNER vsync_owner;
