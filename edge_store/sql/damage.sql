-- What is looked at before a database is opened for writing.

-- name: select_newest_links
SELECT commit_id, boot_id, at, admitted_upto, seq_from, seq_to, digest, previous
FROM commits ORDER BY commit_id DESC LIMIT :limit

-- name: select_link
SELECT digest FROM commits WHERE commit_id = :commit_id
