-- The logs.db of the tool `llm`: its tables of today (since 0.36), then those of before.

-- name: select_tables
SELECT name FROM sqlite_schema WHERE type = 'table'

-- name: select_turns
SELECT t.id, t.thread_id, t.parent_message_hash, t.tip_message_hash, t.model, t.resolved_model,
    t.options_json, t.input_tokens, t.output_tokens, t.token_details, t.duration_ms, t.datetime_utc,
    s.content AS schema
FROM turns AS t LEFT JOIN schemas AS s ON s.id = t.schema_id ORDER BY t.rowid

-- name: count_turns
SELECT count(*) FROM turns

-- name: select_chain
WITH RECURSIVE chain (hash, parent_hash, role, depth) AS (
    SELECT hash, parent_hash, role, 0 FROM messages WHERE hash = :tip
    UNION ALL
    SELECT m.hash, m.parent_hash, m.role, c.depth + 1
    FROM chain AS c JOIN messages AS m ON m.hash = c.parent_hash)
SELECT c.hash, c.role, p.type, p.text, p.payload
FROM chain AS c LEFT JOIN parts AS p ON p.message_hash = c.hash
ORDER BY c.depth DESC, p.position

-- name: select_fragment
SELECT content FROM fragments WHERE id = :id

-- name: select_attachment
SELECT type, url, content FROM attachments WHERE id = :id

-- name: select_turn_tools
SELECT t.name, t.description, t.input_schema
FROM turn_tools AS u JOIN tools AS t ON t.id = u.tool_id WHERE u.turn_id = :turn ORDER BY t.id

-- name: select_responses
SELECT * FROM responses ORDER BY rowid

-- name: count_responses
SELECT count(*) FROM responses

-- name: select_response_calls
SELECT name, arguments, tool_call_id FROM tool_calls WHERE response_id = :id ORDER BY id
