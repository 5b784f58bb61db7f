-- The texts that a search is about: of a result its prompt, and of each choice the answer, the
-- reasoning and the tool calls. NOT INDEXED: from the end on, as few as are needed; by an index of a
-- condition all that it holds for would be sorted first.

-- name: select_searched_after
SELECT r.seq, r.operation, r.digest, r.completed_at,
    q.input_text, ( -- whole: substr() would end a text at its first NUL
    SELECT group_concat(
        o.output_text || coalesce(char(10) || o.reasoning, '') || coalesce(char(10) || o.tool_calls, ''),
        char(10)) FROM outputs AS o WHERE o.seq = r.seq)
FROM results AS r LEFT JOIN requests AS q USING (seq)
WHERE r.seq > :seq ORDER BY r.seq LIMIT :rows

-- name: select_searched
SELECT q.input_text, (
    SELECT group_concat(
        o.output_text || coalesce(char(10) || o.reasoning, '') || coalesce(char(10) || o.tool_calls, ''),
        char(10)) FROM outputs AS o WHERE o.seq = r.seq)
FROM results AS r LEFT JOIN requests AS q USING (seq)
WHERE r.seq = :seq AND r.operation <> 'prefix_cache'

-- name: select_searched_before
SELECT r.seq, q.input_text, (
    SELECT group_concat(
        o.output_text || coalesce(char(10) || o.reasoning, '') || coalesce(char(10) || o.tool_calls, ''),
        char(10)) FROM outputs AS o WHERE o.seq = r.seq)
FROM results AS r NOT INDEXED LEFT JOIN requests AS q USING (seq)
WHERE r.seq > :after AND r.operation <> 'prefix_cache' AND (:condition)
ORDER BY r.seq DESC

-- name: select_newest_searchable
SELECT
    (SELECT timeline FROM timelines ORDER BY timeline_no DESC LIMIT 1),
    coalesce((SELECT max(seq) FROM results), 0),
    coalesce((SELECT min(seq) FROM results), 0),
    coalesce((SELECT max(deletion_id) FROM deletions), 0)

-- name: select_digest_of
SELECT digest FROM results WHERE seq = :seq

-- name: select_deleted_after
SELECT deletion_id, seq, reason FROM deletions WHERE deletion_id > :deletion_id
ORDER BY deletion_id LIMIT :rows

-- name: select_found
SELECT id,
    coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch'), created_at || 'ms'),
    coalesce(response_model, request_model), status, tenant
FROM results WHERE seq = :seq
