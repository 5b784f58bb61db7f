-- Responses and conversations.

-- name: insert_response
INSERT INTO responses (
    id, created_at, tenant, caller, background, conversation_id, previous_id, request, is_held)
VALUES (
    :id, :created_at, :tenant, :caller, :background, :conversation_id, :previous_id, :request,
    :is_held)

-- name: insert_response_key
INSERT INTO response_keys (id, at, tenant, key_hash, fingerprint)
VALUES (:id, :at, :tenant, :key_hash, :fingerprint)

-- name: select_response_by_key
SELECT id, fingerprint, at FROM response_keys
WHERE key_hash = :key_hash AND tenant IS :tenant AND at > :since ORDER BY at DESC LIMIT 1

-- name: insert_response_blob
INSERT INTO response_blobs (id, place, byte_offset, is_escaped, sha256) VALUES (?, ?, ?, ?, ?)

-- name: select_response_blobs
SELECT r.byte_offset, r.is_escaped, b.bytes
FROM response_blobs AS r LEFT JOIN blobs AS b USING (sha256) WHERE r.id = :id ORDER BY r.place

-- name: select_response
SELECT id, created_at, tenant, caller, background, conversation_id, previous_id, request, is_held
FROM responses WHERE id = :id AND (tenant IS :tenant OR :sees_all)

-- name: insert_open_response
INSERT INTO open_responses SELECT response_no FROM responses WHERE id = :id

-- name: delete_open_response
DELETE FROM open_responses WHERE response_no = (SELECT response_no FROM responses WHERE id = :id)

-- name: delete_ended_responses
DELETE FROM open_responses WHERE response_no IN (
    SELECT o.response_no FROM open_responses AS o CROSS JOIN responses AS r ON r.response_no = o.response_no
    WHERE EXISTS (SELECT 1 FROM results AS s WHERE s.id = r.id) OR EXISTS (
        SELECT 1 FROM response_events AS e
        WHERE e.id = r.id AND e.event IN ('cancelled', 'failed')))

-- name: select_waiting_responses
SELECT r.id, r.tenant, r.conversation_id FROM open_responses AS o CROSS JOIN responses AS r ON r.response_no = o.response_no
WHERE NOT EXISTS (SELECT 1 FROM results AS s WHERE s.id = r.id)
    AND NOT EXISTS (
        SELECT 1 FROM response_events AS e WHERE e.id = r.id AND e.event IN ('cancelled', 'failed'))
ORDER BY o.response_no

-- name: insert_response_event
INSERT INTO response_events (id, at, event, code, message)
SELECT :id, :at, :event, :code, :message WHERE EXISTS (SELECT 1 FROM responses WHERE id = :id)

-- name: select_response_events
SELECT event, code, message FROM response_events WHERE id = :id ORDER BY event_no

-- name: delete_response
DELETE FROM responses WHERE id = :id

-- name: delete_responses
DELETE FROM responses WHERE id IN (
    SELECT id FROM results WHERE seq IN (SELECT value FROM json_each(:seqs)))

-- name: select_result_seq
SELECT seq FROM results WHERE id = :id

-- name: insert_conversation
INSERT INTO conversations (conversation_id, created_at, tenant, metadata)
VALUES (:conversation_id, :created_at, :tenant, :metadata)

-- name: select_conversation
SELECT conversation_id, tenant, created_at, coalesce(
    (SELECT a.value FROM annotations AS a
        WHERE a.id = c.conversation_id AND a.kind = 'metadata'
        ORDER BY a.annotation_id DESC LIMIT 1),
    metadata)
FROM conversations AS c
WHERE conversation_id = :conversation_id AND (tenant IS :tenant OR :sees_all)

-- name: insert_conversation_metadata
INSERT INTO annotations (at, id, kind, value)
VALUES (:at, :conversation_id, 'metadata', :metadata)

-- name: delete_conversation_metadata
DELETE FROM annotations WHERE id = :conversation_id

-- name: delete_conversation
DELETE FROM conversations WHERE conversation_id = :conversation_id

-- name: insert_entry
INSERT INTO conversation_entries (conversation_id, at, kind, id, item)
SELECT :conversation_id, :at, :kind, :id, :item
WHERE EXISTS (SELECT 1 FROM conversations WHERE conversation_id = :conversation_id)
    AND NOT EXISTS (
        SELECT 1 FROM conversation_entries
        WHERE conversation_id = :conversation_id AND id = :id AND kind = :kind)

-- name: insert_missing_entries
INSERT INTO conversation_entries (conversation_id, at, kind, id)
SELECT r.conversation_id, s.completed_at, 'response', r.id
FROM open_responses AS o CROSS JOIN responses AS r ON r.response_no = o.response_no
CROSS JOIN results AS s ON s.id = r.id
WHERE r.conversation_id IN (SELECT conversation_id FROM conversations)
    AND NOT EXISTS (
        SELECT 1 FROM conversation_entries AS e
        WHERE e.conversation_id = r.conversation_id AND e.id = r.id AND e.kind = 'response')
ORDER BY s.seq

-- name: select_entry_no
SELECT entry_no FROM conversation_entries
WHERE conversation_id = :conversation_id AND id = :id AND kind <> 'removed'

-- name: select_entries
SELECT entry_no, kind, id, item FROM conversation_entries
WHERE conversation_id = :conversation_id AND kind <> 'removed' AND entry_no >= :first
    AND entry_no <= :last
ORDER BY entry_no

-- name: select_entries_descending
SELECT entry_no, kind, id, item FROM conversation_entries
WHERE conversation_id = :conversation_id AND kind <> 'removed' AND entry_no >= :first
    AND entry_no <= :last
ORDER BY entry_no DESC

-- name: select_removed
SELECT id FROM conversation_entries
WHERE conversation_id = :conversation_id AND kind = 'removed'

-- name: delete_entry
DELETE FROM conversation_entries
WHERE conversation_id = :conversation_id AND id = :id AND kind = 'item'
