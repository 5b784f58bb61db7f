-- API keys.

-- name: insert_key
INSERT INTO api_keys (
    key_id, name, tenant, scopes, requests_per_minute, concurrent, record_max, sha256, created_at,
    expires_at)
VALUES (
    :key_id, :name, :tenant, :scopes, :requests_per_minute, :concurrent, :record_max, :sha256,
    :created_at, :expires_at)

-- name: select_keys
SELECT key_id, name, tenant, scopes, requests_per_minute, concurrent, record_max, sha256, created_at,
    expires_at, revoked_at
FROM api_keys ORDER BY created_at, key_id

-- name: select_last_restore
SELECT t.started_at, NOT EXISTS (SELECT 1 FROM boots AS b WHERE b.timeline = t.timeline)
FROM timelines AS t
WHERE t.timeline_no = (SELECT max(timeline_no) FROM timelines) AND t.reason = 'restored'

-- name: revoke_key
UPDATE api_keys SET revoked_at = :revoked_at WHERE key_id = :key_id AND revoked_at IS NULL

-- name: select_key_revoked_at
SELECT revoked_at FROM api_keys WHERE key_id = :key_id
