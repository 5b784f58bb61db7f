-- Stored completions. The two terms on endpoint and status are those of the index results_stored; its
-- entries of a tenant and a model are in the order of seq; there none is ''. Where a key of the metadata
-- has an index (indexes.sql), '$' stands for its path; its entries of a value are in that order too.

-- name: select_next_stored_tenant
SELECT min(coalesce(tenant, '')) FROM results
WHERE endpoint = '/v1/chat/completions' AND status = 'completed' AND coalesce(tenant, '') > :tenant

-- name: select_next_stored_model
SELECT min(coalesce(response_model, request_model, '')) FROM results
WHERE endpoint = '/v1/chat/completions' AND status = 'completed'
    AND coalesce(tenant, '') = :tenant AND coalesce(response_model, request_model, '') > :model

-- name: select_stored_after
SELECT r.seq, r.id FROM results AS r
WHERE r.endpoint = '/v1/chat/completions' AND r.status = 'completed'
    AND coalesce(r.tenant, '') = :tenant
    AND coalesce(r.response_model, r.request_model, '') = :model
    AND r.seq > :seq
    AND EXISTS (SELECT 1 FROM outputs AS o WHERE o.seq = r.seq)
    AND (:metadata = '{}' OR NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = r.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                r.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value)))
ORDER BY r.seq LIMIT :limit

-- name: select_stored_before
SELECT r.seq, r.id FROM results AS r
WHERE r.endpoint = '/v1/chat/completions' AND r.status = 'completed'
    AND coalesce(r.tenant, '') = :tenant
    AND coalesce(r.response_model, r.request_model, '') = :model
    AND r.seq < :seq
    AND EXISTS (SELECT 1 FROM outputs AS o WHERE o.seq = r.seq)
    AND (:metadata = '{}' OR NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = r.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                r.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value)))
ORDER BY r.seq DESC LIMIT :limit

-- name: select_stored_indexed_after
SELECT r.seq, r.id FROM results AS r
WHERE json_extract(r.metadata, '$') = :value AND r.endpoint = '/v1/chat/completions' AND r.status = 'completed'
    AND (:tenant IS NULL OR r.tenant = :tenant)
    AND (:model IS NULL OR coalesce(r.response_model, r.request_model, '') = :model)
    AND r.seq > :seq
    AND EXISTS (SELECT 1 FROM outputs AS o WHERE o.seq = r.seq)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = r.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                r.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value))
ORDER BY r.seq LIMIT :limit

-- name: select_stored_indexed_before
SELECT r.seq, r.id FROM results AS r
WHERE json_extract(r.metadata, '$') = :value AND r.endpoint = '/v1/chat/completions' AND r.status = 'completed'
    AND (:tenant IS NULL OR r.tenant = :tenant)
    AND (:model IS NULL OR coalesce(r.response_model, r.request_model, '') = :model)
    AND r.seq < :seq
    AND EXISTS (SELECT 1 FROM outputs AS o WHERE o.seq = r.seq)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = r.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                r.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value))
ORDER BY r.seq DESC LIMIT :limit

-- name: select_stored_annotated_after
SELECT r.seq, r.id FROM results AS r
WHERE r.id IN (SELECT n.id FROM annotations AS n
        WHERE n.kind = 'metadata' AND json_extract(n.value, '$') = :value)
    AND r.endpoint = '/v1/chat/completions' AND r.status = 'completed'
    AND (:tenant IS NULL OR r.tenant = :tenant)
    AND (:model IS NULL OR coalesce(r.response_model, r.request_model, '') = :model)
    AND r.seq > :seq
    AND EXISTS (SELECT 1 FROM outputs AS o WHERE o.seq = r.seq)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = r.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                r.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value))
ORDER BY r.seq LIMIT :limit

-- name: select_stored_annotated_before
SELECT r.seq, r.id FROM results AS r
WHERE r.id IN (SELECT n.id FROM annotations AS n
        WHERE n.kind = 'metadata' AND json_extract(n.value, '$') = :value)
    AND r.endpoint = '/v1/chat/completions' AND r.status = 'completed'
    AND (:tenant IS NULL OR r.tenant = :tenant)
    AND (:model IS NULL OR coalesce(r.response_model, r.request_model, '') = :model)
    AND r.seq < :seq
    AND EXISTS (SELECT 1 FROM outputs AS o WHERE o.seq = r.seq)
    AND NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = r.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                r.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value))
ORDER BY r.seq DESC LIMIT :limit

-- name: select_id_by_response_id
SELECT id FROM results INDEXED BY results_by_response_id
WHERE response_id = :name AND response_id IS NOT NULL AND seq > :after AND (:of_tenant IS NULL OR tenant = :of_tenant)
ORDER BY seq DESC LIMIT 1

-- name: select_deleted_seq
SELECT seq FROM deletions
WHERE id = :id AND what = 'result' AND (:of_tenant IS NULL OR tenant = :of_tenant) LIMIT 1

-- name: select_metadata
SELECT value FROM annotations WHERE id = :id AND kind = 'metadata'
ORDER BY annotation_id DESC LIMIT 1

-- name: insert_metadata
INSERT INTO annotations (at, id, kind, value) VALUES (:at, :id, 'metadata', :value)
