-- What a support bundle says of a database.

-- name: select_completeness
SELECT * FROM completeness ORDER BY boot_no DESC LIMIT 100

-- name: select_whole_schema
SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name

-- name: count_rows
SELECT count(*) FROM sqlite_schema

-- name: select_key_names
SELECT tenant, name FROM api_keys
