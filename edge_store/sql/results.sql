-- Reading results back, whole.

-- name: begin_reading
BEGIN

-- name: select_results_after
SELECT * FROM results WHERE seq >= :low AND seq <= :high
    AND (:status IS NULL OR status = :status)
    AND (:model IS NULL OR coalesce(response_model, request_model) = :model)
    AND (:operation IS NULL OR operation = :operation)
    AND (:user IS NULL OR user_id = :user)
    AND (:conversation_id IS NULL OR conversation_id = :conversation_id)
    AND (:batch_id IS NULL OR batch_id = :batch_id)
    AND (:since IS NULL OR created_at >= :since)
    AND (:until IS NULL OR created_at < :until)
    AND (:metadata = '{}' OR NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = results.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                results.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value)))
ORDER BY seq LIMIT :limit

-- name: select_results_before
SELECT * FROM results WHERE seq >= :low AND seq <= :high
    AND (:status IS NULL OR status = :status)
    AND (:model IS NULL OR coalesce(response_model, request_model) = :model)
    AND (:operation IS NULL OR operation = :operation)
    AND (:user IS NULL OR user_id = :user)
    AND (:conversation_id IS NULL OR conversation_id = :conversation_id)
    AND (:batch_id IS NULL OR batch_id = :batch_id)
    AND (:since IS NULL OR created_at >= :since)
    AND (:until IS NULL OR created_at < :until)
    AND (:metadata = '{}' OR NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = results.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                results.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value)))
ORDER BY seq DESC LIMIT :limit

-- name: select_results_of_tenant_after
SELECT * FROM results WHERE tenant = :tenant AND seq >= :low AND seq <= :high
    AND (:status IS NULL OR status = :status)
    AND (:model IS NULL OR coalesce(response_model, request_model) = :model)
    AND (:operation IS NULL OR operation = :operation)
    AND (:user IS NULL OR user_id = :user)
    AND (:conversation_id IS NULL OR conversation_id = :conversation_id)
    AND (:batch_id IS NULL OR batch_id = :batch_id)
    AND (:since IS NULL OR created_at >= :since)
    AND (:until IS NULL OR created_at < :until)
    AND (:metadata = '{}' OR NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = results.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                results.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value)))
ORDER BY seq LIMIT :limit

-- name: select_results_of_tenant_before
SELECT * FROM results WHERE tenant = :tenant AND seq >= :low AND seq <= :high
    AND (:status IS NULL OR status = :status)
    AND (:model IS NULL OR coalesce(response_model, request_model) = :model)
    AND (:operation IS NULL OR operation = :operation)
    AND (:user IS NULL OR user_id = :user)
    AND (:conversation_id IS NULL OR conversation_id = :conversation_id)
    AND (:batch_id IS NULL OR batch_id = :batch_id)
    AND (:since IS NULL OR created_at >= :since)
    AND (:until IS NULL OR created_at < :until)
    AND (:metadata = '{}' OR NOT EXISTS (
        SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM json_each(coalesce(
                (SELECT a.value FROM annotations AS a WHERE a.id = results.id AND a.kind = 'metadata'
                 ORDER BY a.annotation_id DESC LIMIT 1),
                results.metadata)) AS had
            WHERE had.key = wanted.key AND CAST(had.value AS TEXT) = wanted.value)))
ORDER BY seq DESC LIMIT :limit

-- name: select_first_seq_of_timeline
SELECT after_seq + 1 FROM boots WHERE timeline = :timeline ORDER BY boot_no LIMIT 1

-- name: select_result_by_id
SELECT * FROM results WHERE id = :id

-- name: select_answer_by_key
SELECT r.id, r.seq, r.endpoint, r.request_fingerprint, r.http_status, r.stream,
    (SELECT q.response_body FROM bodies AS q WHERE q.seq = r.seq)
FROM results AS r
WHERE r.idempotency_key_hash = :key_hash AND r.tenant IS :tenant AND r.status = 'completed'
    AND r.created_at > :since
ORDER BY r.seq DESC LIMIT 1

-- name: select_outputs
SELECT * FROM outputs WHERE seq = :seq ORDER BY choice_index

-- name: select_content
SELECT *, EXISTS (SELECT 1 FROM request_blobs AS b WHERE b.seq = requests.seq) AS has_blobs
FROM requests WHERE seq = :seq

-- name: select_blobs
SELECT r.byte_offset, r.is_escaped, b.bytes
FROM request_blobs AS r LEFT JOIN blobs AS b USING (sha256) WHERE r.seq = :seq ORDER BY r.place

-- name: select_seqs_with_blobs
SELECT DISTINCT seq FROM request_blobs WHERE seq BETWEEN :seq_from AND :seq_to ORDER BY seq

-- name: select_commits
-- With how many results are here of each, and their digests in one piece: as a row of their own each,
-- they took 1.5 times as long. group_concat takes them in the order that it meets them, which is seq's.
SELECT commit_id, boot_id, at, admitted_upto, seq_from, seq_to, digest, previous,
    (SELECT count(*) FROM results AS r WHERE r.seq BETWEEN c.seq_from AND c.seq_to),
    (SELECT CAST(group_concat(r.digest, '') AS BLOB) FROM results AS r
     WHERE r.seq BETWEEN c.seq_from AND c.seq_to)
FROM commits AS c ORDER BY commit_id

-- name: select_commit_by_digest
SELECT 1 FROM commits WHERE digest = :digest LIMIT 1

-- name: select_newest_commit
SELECT at, digest FROM commits ORDER BY commit_id DESC LIMIT 1

-- name: select_summary
SELECT
    (SELECT count(*) FROM results) AS results,
    (SELECT max(seq) FROM results) AS seq,
    (SELECT max(at) FROM commits) AS committed_at

-- name: select_newest
SELECT seq, id, status, input_text AS prompt, output_text AS output
FROM generations ORDER BY seq DESC LIMIT :newest

-- name: select_chain_outputs
SELECT seq, choice_index, output_text, reasoning, tool_calls, finish_reason, output_json, json_state,
    schema_valid, schema_error, repair_log, repairer, constraint_kind, constraint_holds,
    constraint_error
FROM outputs WHERE seq BETWEEN :seq_from AND :seq_to ORDER BY seq, choice_index

-- name: count_parts
SELECT
    (SELECT count(*) FROM outputs WHERE seq BETWEEN :seq_from AND :seq_to),
    (SELECT count(*) FROM requests WHERE seq BETWEEN :seq_from AND :seq_to)

-- name: select_orphans
SELECT 'outputs', seq FROM outputs
WHERE seq BETWEEN :seq_from AND :seq_to AND seq NOT IN (SELECT seq FROM results)
UNION
SELECT 'requests', seq FROM requests
WHERE seq BETWEEN :seq_from AND :seq_to AND seq NOT IN (SELECT seq FROM results)
LIMIT 20

-- name: select_chain_results
SELECT
    r.seq, r.timeline, r.id, r.device_id, r.boot_id, r.boot_seq, r.operation, r.endpoint, r.status,
    r.request_model, r.response_model, r.engine, r.engine_version, r.params,
    r.created_at, r.first_token_at, r.completed_at, r.clock_synced, r.latency_ms, r.ttft_ms,
    r.queue_ms, r.input_tokens, r.output_tokens, r.cached_tokens, r.reasoning_tokens,
    r.finish_reason, r.stream, r.conversation_id, r.previous_id, r.batch_id, r.custom_id, r.tenant,
    r.user_id, r.metadata, r.caller_rid, r.response_id, r.idempotency_key_hash, r.request_fingerprint,
    r.trace_id,
    r.http_status, r.error_type, r.error_message, r.privacy, r.digest,
    q.seq, q.input_text, q.request_body,
    (SELECT b.response_body FROM bodies AS b WHERE b.seq = q.seq)
FROM results AS r LEFT JOIN requests AS q ON q.seq = r.seq
WHERE r.seq BETWEEN :seq_from AND :seq_to
ORDER BY r.seq

-- name: count_as_written
-- It goes through the bodies: they are counted by that, where to count them by themselves would take
-- longer than to count results (select_piece).
SELECT count(*), count(o.seq),
    (SELECT count(*) FROM outputs WHERE seq BETWEEN :seq_from AND :seq_to),
    (SELECT count(*) FROM deletions
     WHERE what = 'content' AND seq BETWEEN :seq_from AND :seq_to),
    total(digest_of(
        r.seq, r.timeline, r.id, r.device_id, r.boot_id, r.boot_seq, r.operation, r.endpoint, r.status,
        r.request_model, r.response_model, r.engine, r.engine_version, r.params,
        r.created_at, r.first_token_at, r.completed_at, r.clock_synced, r.latency_ms, r.ttft_ms,
        r.queue_ms, r.input_tokens, r.output_tokens, r.cached_tokens, r.reasoning_tokens,
        r.finish_reason, r.stream, r.conversation_id, r.previous_id, r.batch_id, r.custom_id, r.tenant,
        r.user_id, r.metadata, r.caller_rid, r.response_id, r.idempotency_key_hash, r.request_fingerprint,
        r.trace_id,
        r.http_status, r.error_type, r.error_message, r.privacy,
        o.seq, o.choice_index, o.output_text, o.reasoning, o.tool_calls, o.finish_reason,
        o.output_json, o.json_state, o.schema_valid, o.schema_error, o.repair_log, o.repairer,
        o.constraint_kind, o.constraint_holds, o.constraint_error,
        content_of(q.input_text, q.request_body, q.response_body, q.output_at, o.output_text))
        IS r.digest)
FROM requests AS q
LEFT JOIN results AS r ON r.seq = q.seq
LEFT JOIN outputs AS o ON o.seq = q.seq
WHERE q.seq BETWEEN :seq_from AND :seq_to

-- name: probe_function
SELECT length_of(CAST(:value AS TEXT))

-- name: select_piece
SELECT count(*), max(seq) FROM (
    SELECT seq FROM results WHERE seq BETWEEN :seq_from AND :seq_to ORDER BY seq LIMIT :results)

-- name: select_chain_deletions
SELECT seq, timeline, id, boot_id, boot_seq, digest FROM deletions
WHERE what = :what AND seq BETWEEN :seq_from AND :seq_to AND boot_id IN (SELECT boot_id FROM boots)
ORDER BY seq

-- name: select_orphan_deletions
SELECT c.seq, c.id FROM deletions AS c
WHERE c.what = 'content' AND c.boot_id IN (SELECT boot_id FROM boots)
    AND c.seq NOT IN (SELECT seq FROM results)
    AND NOT EXISTS (
        SELECT 1 FROM deletions AS d
        WHERE d.seq = c.seq AND d.what = 'result' AND d.timeline = c.timeline
            AND d.id = c.id AND d.boot_id = c.boot_id AND d.boot_seq = c.boot_seq)
LIMIT 20

-- name: select_digests
SELECT seq, digest FROM results WHERE seq BETWEEN :seq_from AND :seq_to ORDER BY seq

-- name: select_extent
SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM results

-- name: select_deletion_counts
SELECT
    count(*) FILTER (WHERE what = 'result' AND reason = 'forget'),
    count(*) FILTER (WHERE what = 'result' AND reason = 'retention'),
    count(*) FILTER (WHERE what = 'content')
FROM (SELECT what, min(reason) AS reason FROM deletions GROUP BY boot_id, boot_seq, what)
