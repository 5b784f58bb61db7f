CREATE INDEX annotations_by_result ON annotations (id, kind, annotation_id);

CREATE INDEX archives_by_seq ON archives (seq_from, seq_to);

CREATE INDEX archives_under_way ON archives (archive_no) WHERE emptied_at IS NULL OR stale IS NOT NULL;

CREATE INDEX batch_events_by_batch ON batch_events (batch_id, event_no);

CREATE INDEX batches_by_tenant ON batches (tenant);

CREATE INDEX conversation_entries_in_order ON conversation_entries (conversation_id, entry_no);

CREATE INDEX deletions_by_boot ON deletions (boot_id, boot_seq);

CREATE INDEX deletions_by_id ON deletions (id);

CREATE UNIQUE INDEX deletions_by_seq ON deletions (seq, what, timeline, reason);

CREATE INDEX deletions_forgotten ON deletions (seq) WHERE reason = 'forget';

CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;

CREATE INDEX files_by_sha256 ON files (sha256);

CREATE INDEX files_by_tenant ON files (tenant);

CREATE UNIQUE INDEX holds_in_force ON holds (name) WHERE ended_at IS NULL;

CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");

CREATE INDEX line_marks_by_line ON line_marks (batch_id, custom_id, mark_no);

CREATE INDEX losses_by_boot ON losses (boot_id, boot_seq);

CREATE INDEX queued_requests_by_key ON queued_requests (key_hash) WHERE key_hash IS NOT NULL;

CREATE INDEX queued_requests_by_tenant ON queued_requests (tenant);

CREATE INDEX repairs_by_result ON repairs (id, choice_index, repair_id);

CREATE INDEX request_blobs_by_sha256 ON request_blobs (sha256);

CREATE INDEX response_blobs_by_sha256 ON response_blobs (sha256);

CREATE INDEX response_events_by_id ON response_events (id, event_no);

CREATE INDEX response_keys_by_key ON response_keys (key_hash, at);

CREATE INDEX results_by_idempotency ON results (idempotency_key_hash, seq)
WHERE idempotency_key_hash IS NOT NULL;

CREATE UNIQUE INDEX results_by_line ON results (
    batch_id, custom_id, iif(status = 'completed', 0, seq))
WHERE batch_id IS NOT NULL;

CREATE INDEX results_by_model_and_hour ON results (
    coalesce(response_model, request_model), created_at / 3600000,
    created_at, status, latency_ms, ttft_ms, input_tokens, output_tokens, cached_tokens)
WHERE operation <> 'prefix_cache';

CREATE INDEX results_by_response_id ON results (seq, response_id) WHERE response_id IS NOT NULL;

CREATE INDEX results_by_tenant ON results (tenant) WHERE tenant IS NOT NULL;

CREATE INDEX results_stored ON results (
    coalesce(tenant, ''), coalesce(response_model, request_model, ''))
WHERE endpoint = '/v1/chat/completions' AND status = 'completed';

CREATE INDEX sink_letters_by_name ON sink_letters (name, again);

CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);

CREATE TABLE annotations ( -- What is said of a result later: metadata and pins. The newest of a kind counts.
    annotation_id INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms
    id TEXT NOT NULL, -- the result
    kind TEXT NOT NULL CHECK (kind IN ('metadata', 'pin')), -- what is said
    value TEXT NOT NULL CHECK (json_valid(value)) -- JSON
) STRICT;

CREATE TABLE api_keys ( -- Who may ask, and what. A key itself is nowhere: its SHA-256 is. Rows stay for good.
    key_id TEXT PRIMARY KEY, -- its name in commands and logs
    name TEXT NOT NULL, -- what it is for, in the words of who made it
    tenant TEXT NOT NULL, -- whose results it makes and reads
    scopes TEXT NOT NULL CHECK (json_valid(scopes)), -- JSON array of generate, read_own, read_all, admin
    requests_per_minute INTEGER CHECK (requests_per_minute > 0), -- NULL: no bound
    concurrent INTEGER CHECK (concurrent > 0), -- requests in flight; NULL: no bound
    record_max TEXT NOT NULL CHECK (record_max IN ('off', 'meta', 'full')), -- the most that is kept of its requests
    sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32), -- of the key
    created_at INTEGER NOT NULL, -- UTC ms
    expires_at INTEGER, -- UTC ms; NULL: never
    revoked_at INTEGER -- UTC ms; NULL: it is not
) STRICT;

CREATE TABLE archived ( -- Which deletion has left its result, or its bodies, in which file.
    deletion_id INTEGER PRIMARY KEY REFERENCES deletions (deletion_id) ON DELETE CASCADE, -- the deletion
    archive_no INTEGER NOT NULL -- the file, in archives; no reference: to give up a file that was not whole would look through all of these
) STRICT;

CREATE TABLE archives ( -- Files of results that retention has put away, or is about to.
    archive_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms: when it was begun, before anything was written
    what TEXT NOT NULL CHECK (what IN ('result', 'content')), -- whole results, or bodies only
    store TEXT NOT NULL, -- the address, without keys
    file TEXT NOT NULL, -- its name there
    timeline TEXT NOT NULL, -- the timeline that was in force
    seqs TEXT NOT NULL CHECK (json_valid(seqs)), -- which results are in it: JSON, an array of [first seq, last seq]
    seq_from INTEGER NOT NULL, -- the first of them
    seq_to INTEGER NOT NULL, -- the last
    completed_from INTEGER NOT NULL, -- UTC ms: the earliest end of an answer in it
    completed_to INTEGER NOT NULL, -- and the latest
    rows INTEGER NOT NULL, -- how many results
    bytes INTEGER, -- size of the file; NULL until it is verified
    sha256 TEXT, -- of the file
    verified_at INTEGER, -- UTC ms: it was read back and is what it should be; only then anything is deleted. NULL: it is not there, or not whole
    emptied_at INTEGER, -- UTC ms: all of them that may be deleted are; NULL: that goes on
    stale TEXT -- a file that this one replaces and that is still to be removed: it holds what was forgotten
) STRICT;

CREATE TABLE batch_events ( -- What became of a batch. Rows are only added.
    event_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    batch_id TEXT NOT NULL REFERENCES batches (batch_id) ON DELETE CASCADE, -- the batch
    at INTEGER NOT NULL, -- UTC ms
    event TEXT NOT NULL CHECK (event IN ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelling', 'cancelled')), -- the state that it came to
    expires_at INTEGER, -- UTC ms: when its lines end, of in_progress
    detail TEXT NOT NULL CHECK (json_valid(detail)) -- lines, errors, counts, output files; JSON
) STRICT;

CREATE TABLE batches ( -- One row per batch. Its state is its newest event.
    batch_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    batch_id TEXT NOT NULL UNIQUE, -- batch_ and a UUIDv7
    created_at INTEGER NOT NULL, -- UTC ms
    tenant TEXT, -- whose key
    caller TEXT NOT NULL CHECK (json_valid(caller)), -- in whose name its lines ask, JSON
    endpoint TEXT NOT NULL, -- the route its lines call
    input_file_id TEXT NOT NULL, -- the uploaded file
    input_sha256 TEXT NOT NULL, -- its bytes, which stay until the batch has ended
    completion_window TEXT NOT NULL, -- how long it may take, as it was asked: 24h
    output_expires_s INTEGER, -- how long its output files are kept; NULL: until they are deleted
    metadata TEXT CHECK (json_valid(metadata)) -- the caller's, JSON
) STRICT;

CREATE TABLE blobs ( -- Images and audio, once each.
    sha256 TEXT PRIMARY KEY, -- of the bytes
    media_type TEXT NOT NULL, -- as in image/png: as who sent it first called it, else by how it begins
    bytes BLOB NOT NULL -- the bytes
) STRICT;

CREATE TABLE boots ( -- One row per start of the daemon; its clean end is a second row, so a crash is its absence.
    boot_no INTEGER PRIMARY KEY, -- order, whatever the clock said
    boot_id TEXT NOT NULL, -- UUIDv7
    event TEXT NOT NULL CHECK (event IN ('start', 'end')), -- start or clean end
    at INTEGER NOT NULL, -- UTC ms
    timeline TEXT NOT NULL, -- the timeline it wrote on
    device_id TEXT NOT NULL, -- the box
    version TEXT NOT NULL, -- of edge-store
    sqlite_version TEXT NOT NULL, -- of the SQLite that wrote
    engine TEXT NOT NULL, -- which engine answered
    engine_version TEXT NOT NULL, -- and its version
    clock_synced INTEGER NOT NULL, -- 1 if the kernel's clock was disciplined
    after_seq INTEGER NOT NULL, -- the newest result's seq by then; 0 before the first
    after_commit INTEGER NOT NULL, -- the newest commit by then; 0 before the first
    UNIQUE (boot_id, event)
) STRICT;

CREATE TABLE commits ( -- One row per COMMIT, and one a second while requests are in flight: marks and the digest chain.
    commit_id INTEGER PRIMARY KEY, -- order of the chain
    boot_id TEXT NOT NULL, -- the boot that wrote it
    at INTEGER NOT NULL, -- UTC ms
    admitted_upto INTEGER NOT NULL, -- highest boot_seq handed out by then
    seq_from INTEGER, -- first result it carried; NULL for a mark alone
    seq_to INTEGER, -- last result it carried
    digest BLOB NOT NULL, -- SHA-256 of the previous digest, this row, and the digests of its results
    previous BLOB NOT NULL -- digest of the commit before; 32 zero bytes for the first
) STRICT;

CREATE TABLE conversation_entries ( -- What a conversation consists of, in order. The items of a response are in its request and its result, not here.
    entry_no INTEGER PRIMARY KEY, -- order
    conversation_id TEXT NOT NULL REFERENCES conversations (conversation_id) ON DELETE CASCADE, -- the conversation
    at INTEGER NOT NULL, -- UTC ms
    kind TEXT NOT NULL CHECK (kind IN ('item', 'response', 'removed')), -- an item that was added; all items of a response; an item of a response that was taken out
    id TEXT NOT NULL, -- of the item; of the response's result
    item TEXT CHECK (json_valid(item)), -- the item, JSON
    UNIQUE (conversation_id, id, kind)
) STRICT;

CREATE TABLE conversations ( -- One row per conversation. Newer metadata is in annotations.
    conversation_id TEXT PRIMARY KEY, -- conv_ and a UUIDv7
    created_at INTEGER NOT NULL, -- UTC ms
    tenant TEXT, -- whose key
    metadata TEXT NOT NULL CHECK (json_valid(metadata)) -- the caller's, JSON
) STRICT;

CREATE TABLE deletions ( -- What was deleted and why: keeps the count true and the chain checkable.
    deletion_id INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms
    what TEXT NOT NULL CHECK (what IN ('result', 'content')), -- the whole result, or its bodies only
    reason TEXT NOT NULL CHECK (reason IN ('forget', 'retention')), -- forget travels to every copy, retention stays here
    id TEXT NOT NULL, -- the result
    seq INTEGER NOT NULL, -- its seq
    timeline TEXT NOT NULL, -- its timeline
    boot_id TEXT NOT NULL, -- its boot
    boot_seq INTEGER NOT NULL, -- its admission number
    created_at INTEGER NOT NULL, -- UTC ms: its admission
    tenant TEXT, -- whose it was
    digest BLOB NOT NULL -- what the chain needs in its place: of a result its digest, of a content its SHA-256
) STRICT;

CREATE TABLE device ( -- The box this file belongs to: one row, for good.
    only INTEGER PRIMARY KEY CHECK (only = 1), -- always 1
    device_id TEXT NOT NULL, -- name of the box; its replica lies under this name
    created_at INTEGER NOT NULL -- UTC ms
) STRICT;

CREATE TABLE drills ( -- Restores done to prove the replica.
    drill_id INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms
    timeline TEXT NOT NULL, -- what was restored
    seq_to INTEGER NOT NULL, -- up to which result
    rows INTEGER NOT NULL, -- results in the restored copy
    txid TEXT, -- Litestream's position
    cause TEXT NOT NULL DEFAULT 'schedule', -- `schedule`, `unclean_start`, `asked`, or `healed`: the one after a failure
    kind TEXT NOT NULL DEFAULT 'full', -- `full`: by litestream restore; `incremental`: by what is new since the last one
    bytes INTEGER NOT NULL DEFAULT 0, -- what was downloaded for it
    duration_ms REAL NOT NULL, -- how long it took
    passed INTEGER NOT NULL, -- 1 if the copy is what the live file is
    failure TEXT -- what did not hold; of a passed one: what is wrong with the live file itself
) STRICT;

CREATE TABLE files ( -- What was uploaded, and what batches made. The bytes lie on the disk, in `files/` beside the database, under their SHA-256.
    file_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    file_id TEXT NOT NULL UNIQUE, -- file- and a UUIDv7
    created_at INTEGER NOT NULL, -- UTC ms
    expires_at INTEGER, -- UTC ms: from then on it is not there; NULL: it stays
    tenant TEXT, -- whose key
    purpose TEXT NOT NULL, -- batch, batch_output, user_data, ...
    filename TEXT NOT NULL, -- as its sender called it
    bytes INTEGER NOT NULL, -- its size
    sha256 TEXT NOT NULL -- of its bytes
) STRICT;

CREATE TABLE forgotten ( -- Goes to every copy, as the rows of deletions with the reason forget do.
    forgotten_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms
    what TEXT NOT NULL CHECK (what IN ('request', 'response', 'conversation', 'lines')), -- a queued request, a response without a result, a conversation with its items, lines of an uploaded or made file
    id TEXT NOT NULL -- its id; of a file the SHA-256 that it is named by
) STRICT;

CREATE TABLE holds ( -- What nobody may delete until the hold ends: results that a selection names, those to come too.
    hold_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms: when it began
    name TEXT NOT NULL, -- its name
    selection TEXT NOT NULL CHECK (json_valid(selection)), -- which results, JSON: the filters of `--since`, `--tenant` and so on; {} is all of them
    note TEXT NOT NULL, -- why, in the operator's words
    ended_at INTEGER -- UTC ms; NULL while it is in force
) STRICT;

CREATE TABLE line_marks ( -- What is said of a line beside its results. The newest counts.
    mark_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    batch_id TEXT NOT NULL, -- the batch; of a queued request its id
    custom_id TEXT, -- the line; NULL of a queued request
    at INTEGER NOT NULL, -- UTC ms
    mark TEXT NOT NULL CHECK (mark IN ('refused', 'retry', 'done')), -- refused: it was not admitted, and will not be; retry: an operator has it tried again; done: its completed result was deleted
    after_seq INTEGER NOT NULL, -- results up to this seq are no attempts any more
    http_status INTEGER, -- of what it was refused with
    code TEXT, -- stable code of the error
    message TEXT -- its message
) STRICT;

CREATE TABLE losses ( -- Outcomes that could not be stored: one row each, with the next COMMIT that succeeds.
    loss_id INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms: when it was given up
    boot_id TEXT NOT NULL, -- its boot
    boot_seq INTEGER NOT NULL, -- its admission number
    id TEXT NOT NULL, -- its id, which the caller's error named
    code TEXT NOT NULL, -- stable code of the error
    message TEXT NOT NULL -- its message
) STRICT;

CREATE TABLE open_batches ( -- Batches that have not ended.
    batch_no INTEGER PRIMARY KEY REFERENCES batches (batch_no) ON DELETE CASCADE -- the batch
) STRICT;

CREATE TABLE open_responses ( -- Responses in the background that have not ended, or not yet their place in their conversation.
    response_no INTEGER PRIMARY KEY REFERENCES responses (response_no) ON DELETE CASCADE -- the response
) STRICT;

CREATE TABLE outputs ( -- One row per choice of a result.
    seq INTEGER NOT NULL REFERENCES results (seq) ON DELETE CASCADE, -- the result
    choice_index INTEGER NOT NULL, -- from 0
    output_text TEXT NOT NULL, -- raw, never repaired
    reasoning TEXT, -- the model's reasoning, when the engine tells it apart
    tool_calls TEXT CHECK (json_valid(tool_calls)), -- JSON array, with arguments as the model wrote them
    finish_reason TEXT, -- of this choice
    output_json TEXT CHECK (json_valid(output_json)), -- the JSON that was asked for, if there is any; of tool calls an array: the arguments of each, null where there is no JSON
    json_state TEXT NOT NULL, -- text, valid, extracted, repaired, truncated, invalid; of several tool calls the worst
    schema_valid INTEGER, -- 1 if it satisfies the schema asked for; NULL without one
    schema_error TEXT, -- why it does not
    repair_log TEXT, -- what the repairer did
    repairer TEXT, -- its name and version
    constraint_kind TEXT, -- regex or ebnf, where one was asked for
    constraint_holds INTEGER, -- 1 if the whole text matches it, 0 if not; NULL without one, or not checked
    constraint_error TEXT, -- why it was not checked
    PRIMARY KEY (seq, choice_index)
) STRICT;

CREATE TABLE queries ( -- SQL by name, for `edge-store query @NAME`.
    name TEXT NOT NULL PRIMARY KEY, -- as it is asked for, without the @
    at INTEGER NOT NULL, -- UTC ms: when it was saved
    sql TEXT NOT NULL -- the statement
) STRICT;

CREATE TABLE queue_switches ( -- `edge-store queue pause` and `resume`. The newest counts.
    switch_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms
    is_paused INTEGER NOT NULL -- 1 from a pause to the next resume
) STRICT;

CREATE TABLE queued_requests ( -- Requests with `Prefer: respond-async`, from their 202 to their result.
    request_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    id TEXT NOT NULL UNIQUE, -- of the result that it becomes
    created_at INTEGER NOT NULL, -- UTC ms
    tenant TEXT, -- whose key
    caller TEXT NOT NULL CHECK (json_valid(caller)), -- in whose name it asks, JSON
    endpoint TEXT NOT NULL, -- the route
    body BLOB NOT NULL, -- as it was sent, or what redaction leaves of it
    is_held INTEGER NOT NULL, -- 1 if redaction took something out: what was sent lies in `held/` beside the database until it is asked
    key_hash BLOB, -- SHA-256 of its Idempotency-Key
    fingerprint BLOB -- SHA-256 of its body, where it has such a key
) STRICT;

CREATE TABLE repairs ( -- A repair applied again later, by a newer repairer. The newest counts.
    repair_id INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms
    id TEXT NOT NULL, -- the result
    choice_index INTEGER NOT NULL, -- its choice
    output_json TEXT CHECK (json_valid(output_json)), -- what it made
    json_state TEXT NOT NULL, -- as in outputs
    schema_valid INTEGER, -- as in outputs
    schema_error TEXT, -- as in outputs
    repair_log TEXT, -- as in outputs
    repairer TEXT NOT NULL -- name and version
) STRICT;

CREATE TABLE request_blobs ( -- Where images and audio belong in a request's body: it is stored without them.
    seq INTEGER NOT NULL REFERENCES requests (seq) ON DELETE CASCADE, -- the result
    place INTEGER NOT NULL, -- order, from 0
    byte_offset INTEGER NOT NULL, -- in requests.request_body: its base64 is to be put in there
    is_escaped INTEGER NOT NULL, -- 1 if the slashes of its base64 are written \/
    sha256 TEXT NOT NULL REFERENCES blobs (sha256), -- which
    PRIMARY KEY (seq, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE requests ( -- The exact bytes both ways; the part that retention may expire first.
    seq INTEGER PRIMARY KEY REFERENCES results (seq) ON DELETE CASCADE, -- the result
    input_text TEXT, -- the prompt as text
    request_body BLOB NOT NULL, -- as the caller sent it, but for what request_blobs has to be put in
    response_body BLOB NOT NULL -- as the engine sent it; of a stream, all its events
, output_at INTEGER) STRICT;

CREATE TABLE response_blobs ( -- The same for what was asked of a response.
    id TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE, -- the response's result
    place INTEGER NOT NULL, -- order, from 0
    byte_offset INTEGER NOT NULL, -- in responses.request: its base64 is to be put in there
    is_escaped INTEGER NOT NULL, -- 1 if the slashes of its base64 are written \/
    sha256 TEXT NOT NULL REFERENCES blobs (sha256), -- which
    PRIMARY KEY (id, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE response_events ( -- What happened to a response in the background before there was a result, or in place of one.
    event_no INTEGER PRIMARY KEY, -- order
    id TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE, -- of the response, without `resp_`
    at INTEGER NOT NULL, -- UTC ms
    event TEXT NOT NULL CHECK (event IN ('started', 'cancelled', 'failed')), -- a start is an attempt; the others are an end
    code TEXT, -- stable code of the error
    message TEXT -- its message
) STRICT;

CREATE TABLE response_keys ( -- The responses that were asked for with an Idempotency-Key, and can be given again.
    id TEXT PRIMARY KEY REFERENCES responses (id) ON DELETE CASCADE, -- of the response, without `resp_`
    at INTEGER NOT NULL, -- UTC ms: when it was kept
    tenant TEXT, -- whose key
    key_hash BLOB NOT NULL, -- SHA-256 of the Idempotency-Key
    fingerprint BLOB NOT NULL -- SHA-256 of the request
) STRICT;

CREATE TABLE responses ( -- One row per response that is kept: what was asked. It goes with its result.
    response_no INTEGER PRIMARY KEY, -- order
    id TEXT NOT NULL UNIQUE, -- of the result that it becomes; `resp_` and this is the response's id
    created_at INTEGER NOT NULL, -- UTC ms
    tenant TEXT, -- whose key
    caller TEXT NOT NULL CHECK (json_valid(caller)), -- in whose name it runs, JSON
    background INTEGER NOT NULL, -- 1 if it runs without its caller
    conversation_id TEXT, -- the conversation it belongs to
    previous_id TEXT, -- the id of the result of the response it continues
    request BLOB NOT NULL, -- the body as the caller sent it, or what redaction leaves of it; but for what response_blobs has to be put in
    is_held INTEGER NOT NULL -- 1 if redaction took something out of one in the background: what was sent lies in `held/` beside the database until it has ended
) STRICT;

CREATE TABLE results ( -- One row per outcome of an admitted request. Inserted once, never updated.
    seq INTEGER PRIMARY KEY, -- order of commit on this timeline
    timeline TEXT NOT NULL, -- which run of seq numbers this is
    id TEXT NOT NULL UNIQUE, -- UUIDv7, ours; the engine knows it as rid
    device_id TEXT NOT NULL, -- the box
    boot_id TEXT NOT NULL, -- the start of the daemon it ran in
    boot_seq INTEGER NOT NULL, -- admission number within the boot, from 1, without holes
    operation TEXT NOT NULL, -- chat, text_completion, generate, embeddings, prefix_cache (no output was asked for; in no view of results)
    endpoint TEXT NOT NULL, -- the path that was called
    status TEXT NOT NULL CHECK (status IN ('completed', 'incomplete', 'failed', 'cancelled')), -- how it ended
    request_model TEXT, -- the model asked for
    response_model TEXT, -- the model that answered
    engine TEXT NOT NULL, -- demo, upstream, sglang
    engine_version TEXT NOT NULL, -- its version
    params TEXT NOT NULL CHECK (json_valid(params)), -- sampling parameters, JSON
    created_at INTEGER NOT NULL, -- UTC ms: admission
    first_token_at INTEGER, -- UTC ms: first piece of the answer, when streamed
    completed_at INTEGER NOT NULL, -- UTC ms: end of the answer
    clock_synced INTEGER NOT NULL, -- 1 if the kernel's clock was disciplined
    latency_ms REAL NOT NULL, -- admission to end of the answer
    ttft_ms REAL, -- admission to first token, when streamed
    queue_ms REAL NOT NULL, -- time waited for a recorder slot
    input_tokens INTEGER, -- prompt tokens
    output_tokens INTEGER, -- completion tokens, all choices
    cached_tokens INTEGER, -- prompt tokens taken from the engine's prefix cache
    reasoning_tokens INTEGER, -- completion tokens spent on reasoning
    finish_reason TEXT, -- of the first choice, in OpenAI's words: stop, length, tool_calls, ...
    stream INTEGER NOT NULL, -- 1 if streamed
    conversation_id TEXT, -- conversation it belongs to
    previous_id TEXT, -- the result it continues
    batch_id TEXT, -- batch it belongs to
    custom_id TEXT, -- the caller's name for the batch line
    tenant TEXT, -- whose key: `key-` and the beginning of its SHA-256
    user_id TEXT, -- the caller's `user`
    metadata TEXT CHECK (json_valid(metadata)), -- the caller's `metadata`, JSON
    caller_rid TEXT, -- the caller's own `rid`
    response_id TEXT, -- the answer's own id, where it is not `id`
    idempotency_key_hash BLOB, -- SHA-256 of the Idempotency-Key
    request_fingerprint BLOB NOT NULL, -- SHA-256 of the request body
    trace_id TEXT, -- from the traceparent header
    http_status INTEGER NOT NULL, -- of the outcome: a stream that fails after its 200 has its error's
    error_type TEXT, -- stable code of the error
    error_message TEXT, -- its message
    privacy TEXT CHECK (json_valid(privacy)), -- what was not written, JSON: the level of recording, how often each rule of redaction was met; NULL: nothing is missing
    digest BLOB NOT NULL -- SHA-256 of this row, its outputs and its content
) STRICT;

CREATE TABLE sink_letters ( -- Dead letters: results that a sink has refused for what they are.
    letter_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    name TEXT NOT NULL, -- the sink
    at INTEGER NOT NULL, -- UTC ms: when it was refused last
    seq INTEGER NOT NULL, -- the result's
    id TEXT NOT NULL, -- the result
    again INTEGER NOT NULL, -- 1 while it is to be sent again
    error TEXT NOT NULL -- why, without anything of the result
) STRICT;

CREATE TABLE sinks ( -- One row per sink that was ever begun.
    name TEXT PRIMARY KEY, -- as in edge-store.toml
    at INTEGER NOT NULL, -- UTC ms: when this row was written last
    timeline TEXT NOT NULL, -- of seq
    seq INTEGER NOT NULL, -- everything up to it was taken, refused, skipped, or is not wanted
    delivered INTEGER NOT NULL, -- how many results were taken
    skipped INTEGER NOT NULL, -- how many were deleted before their turn, or passed over by `sinks skip`
    orders INTEGER NOT NULL, -- how often an operator has retried or skipped: the daemon looks again then
    failure TEXT, -- why nothing is taken at present; NULL: it is
    failing_since INTEGER -- UTC ms: since when
) STRICT;

CREATE TABLE timelines ( -- A new one at each restore, because a restored box hands out used seq numbers again.
    timeline_no INTEGER PRIMARY KEY, -- order, whatever the clock said; the last is the one in force
    timeline TEXT NOT NULL UNIQUE, -- UUIDv7
    started_at INTEGER NOT NULL, -- UTC ms
    reason TEXT NOT NULL CHECK (reason IN ('created', 'restored')) -- why it began
) STRICT;

CREATE TRIGGER request_blobs_last AFTER DELETE ON request_blobs BEGIN
    DELETE FROM blobs WHERE sha256 = old.sha256
        AND NOT EXISTS (SELECT 1 FROM request_blobs WHERE sha256 = old.sha256)
        AND NOT EXISTS (SELECT 1 FROM response_blobs WHERE sha256 = old.sha256);
END;

CREATE TRIGGER response_blobs_last AFTER DELETE ON response_blobs BEGIN
    DELETE FROM blobs WHERE sha256 = old.sha256
        AND NOT EXISTS (SELECT 1 FROM request_blobs WHERE sha256 = old.sha256)
        AND NOT EXISTS (SELECT 1 FROM response_blobs WHERE sha256 = old.sha256);
END;

CREATE VIEW bodies AS -- The rows of requests, with the response's bytes as the engine sent them.
SELECT
    q.seq, q.input_text, q.request_body,
    CASE WHEN q.output_at IS NULL OR o.output_text IS NULL THEN q.response_body
         ELSE CAST(
             coalesce(substr(q.response_body, 1, q.output_at), '') -- of no bytes it is NULL
             || json_quote(o.output_text)
             || coalesce(substr(q.response_body, q.output_at + 1), '') AS BLOB)
         END AS response_body
FROM requests AS q
LEFT JOIN outputs AS o ON o.seq = q.seq AND o.choice_index = 0;

CREATE VIEW boot_extents AS -- Which results and commits are of which boot: a boot's are consecutive.
SELECT
    boot_no, boot_id, seq_from, seq_to, commit_from, commit_to,
    (SELECT max(c.commit_id) FROM commits AS c
     WHERE c.commit_id BETWEEN commit_from AND commit_to) AS last_commit
FROM (
    SELECT
        s.boot_no, s.boot_id,
        s.after_seq + 1 AS seq_from,
        coalesce(n.after_seq, 9223372036854775807) AS seq_to,
        s.after_commit + 1 AS commit_from,
        coalesce(n.after_commit, 9223372036854775807) AS commit_to
    FROM boots AS s
    LEFT JOIN boots AS n ON n.boot_no = (
        SELECT m.boot_no FROM boots AS m WHERE m.boot_no > s.boot_no AND m.event = 'start'
        ORDER BY m.boot_no LIMIT 1)
    WHERE s.event = 'start');

CREATE VIEW completeness AS -- Per boot: what was admitted and what became of it; of what retention deleted, how much is archived.
WITH
outcomes AS (
    SELECT x.boot_no,
        count(*) AS recorded,
        count(*) FILTER (WHERE r.status = 'completed') AS completed,
        count(*) FILTER (WHERE r.status = 'incomplete') AS incomplete,
        count(*) FILTER (WHERE r.status = 'failed') AS failed,
        count(*) FILTER (WHERE r.status = 'cancelled') AS cancelled
    FROM boot_extents AS x CROSS JOIN results AS r ON r.seq BETWEEN x.seq_from AND x.seq_to
    GROUP BY x.boot_no),
gone AS (
    SELECT boot_id,
        count(*) AS deleted,
        count(*) FILTER (WHERE reason = 'forget') AS deleted_forget,
        count(*) FILTER (WHERE reason = 'retention') AS deleted_retention,
        count(*) FILTER (WHERE reason = 'retention' AND is_archived) AS archived
    FROM (
        SELECT boot_id, min(reason) AS reason, count(a.archive_no) > 0 AS is_archived
        FROM deletions AS d LEFT JOIN archived AS a USING (deletion_id) WHERE what = 'result'
        GROUP BY boot_id, boot_seq)
    GROUP BY boot_id),
given_up AS (
    SELECT boot_id, count(*) AS lost FROM losses GROUP BY boot_id),
counted AS (
    SELECT
        s.boot_no, s.boot_id, s.device_id, s.at AS started_at, e.at AS ended_at,
        m.at AS last_mark_at,
        coalesce(m.admitted_upto, 0) AS admitted,
        coalesce(o.completed, 0) AS completed,
        coalesce(o.incomplete, 0) AS incomplete,
        coalesce(o.failed, 0) AS failed,
        coalesce(o.cancelled, 0) AS cancelled,
        coalesce(g.deleted, 0) AS deleted,
        coalesce(g.deleted_forget, 0) AS deleted_forget,
        coalesce(g.deleted_retention, 0) AS deleted_retention,
        coalesce(g.archived, 0) AS archived,
        coalesce(l.lost, 0) AS lost,
        coalesce(m.admitted_upto, 0) - coalesce(o.recorded, 0) - coalesce(g.deleted, 0)
            - coalesce(l.lost, 0) AS missing,
        CASE
            WHEN e.boot_id IS NOT NULL THEN 'ended'
            WHEN s.boot_no = (SELECT max(boot_no) FROM boots) THEN 'open'
            ELSE 'interrupted'
        END AS state,
        (SELECT n.at FROM boots AS n WHERE n.boot_no > s.boot_no ORDER BY n.boot_no LIMIT 1)
            AS next_at
    FROM boots AS s
    LEFT JOIN boots AS e ON e.boot_id = s.boot_id AND e.event = 'end'
    LEFT JOIN boot_extents AS x ON x.boot_no = s.boot_no
    LEFT JOIN commits AS m ON m.commit_id = x.last_commit
    LEFT JOIN outcomes AS o ON o.boot_no = s.boot_no
    LEFT JOIN gone AS g ON g.boot_id = s.boot_id
    LEFT JOIN given_up AS l ON l.boot_id = s.boot_id
    WHERE s.event = 'start'),
named AS (
    SELECT *,
        iif(state = 'open', missing, 0) AS in_flight,
        iif(state = 'interrupted', missing, 0) AS interrupted,
        iif(state = 'ended', missing, 0) AS not_stored
    FROM counted)
SELECT
    boot_no, boot_id, device_id,
    strftime('%Y-%m-%dT%H:%M:%fZ', started_at / 1000.0, 'unixepoch') AS started_at,
    state,
    strftime('%Y-%m-%dT%H:%M:%fZ', ended_at / 1000.0, 'unixepoch') AS ended_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', last_mark_at / 1000.0, 'unixepoch') AS last_mark_at,
    admitted, completed, incomplete, failed, cancelled,
    deleted, deleted_forget, deleted_retention, archived, lost,
    in_flight, interrupted, not_stored,
    CASE WHEN state <> 'ended'
         THEN strftime('%Y-%m-%dT%H:%M:%fZ', last_mark_at / 1000.0, 'unixepoch') END AS unknown_after,
    CASE WHEN state = 'interrupted'
         THEN strftime('%Y-%m-%dT%H:%M:%fZ', next_at / 1000.0, 'unixepoch') END AS unknown_until,
    -- cut, not rounded: one lost of a million is not 100
    CASE WHEN admitted > in_flight
         THEN (1000000 * (admitted - in_flight - interrupted - not_stored - lost)
               / (admitted - in_flight)) / 10000.0
         ELSE 100.0 END AS percent
FROM named;

CREATE VIEW completeness_by_day AS -- Per UTC day of admission: the same; what has no row counts on the day of its boot's last mark.
WITH
parts (
    day, completed, incomplete, failed, cancelled, deleted_forget, deleted_retention, archived,
    lost, in_flight, interrupted, not_stored, cuts
) AS (
    -- by the index, whose order is that of the groups: to group by day would sort all results
    SELECT
        date(hour * 3600, 'unixepoch') AS day, completed, incomplete, failed, cancelled,
        0, 0, 0, 0, 0, 0, 0, 0
    FROM (
        SELECT
            created_at / 3600000 AS hour,
            count(*) FILTER (WHERE status = 'completed') AS completed,
            count(*) FILTER (WHERE status = 'incomplete') AS incomplete,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled
        FROM results WHERE operation <> 'prefix_cache'
        GROUP BY coalesce(response_model, request_model), created_at / 3600000)
    UNION ALL
    SELECT
        date(created_at / 1000, 'unixepoch') AS day,
        count(*) FILTER (WHERE status = 'completed'),
        count(*) FILTER (WHERE status = 'incomplete'),
        count(*) FILTER (WHERE status = 'failed'),
        count(*) FILTER (WHERE status = 'cancelled'),
        0, 0, 0, 0, 0, 0, 0, 0
    FROM results WHERE operation = 'prefix_cache' GROUP BY day
    UNION ALL
    SELECT
        date(created_at / 1000, 'unixepoch') AS day,
        0, 0, 0, 0,
        count(*) FILTER (WHERE reason = 'forget'),
        count(*) FILTER (WHERE reason = 'retention'),
        count(*) FILTER (WHERE reason = 'retention' AND is_archived),
        0, 0, 0, 0, 0
    FROM (
        SELECT created_at, min(reason) AS reason, count(a.archive_no) > 0 AS is_archived
        FROM deletions AS d LEFT JOIN archived AS a USING (deletion_id) WHERE what = 'result'
        GROUP BY boot_id, boot_seq)
    GROUP BY day
    UNION ALL
    SELECT date(at / 1000, 'unixepoch') AS day, 0, 0, 0, 0, 0, 0, 0, count(*), 0, 0, 0, 0
    FROM losses GROUP BY day
    UNION ALL
    SELECT
        date(coalesce(last_mark_at, started_at)) AS day, 0, 0, 0, 0, 0, 0, 0, 0,
        sum(in_flight), sum(interrupted), sum(not_stored),
        count(*) FILTER (WHERE state = 'interrupted')
    FROM completeness GROUP BY day),
summed AS (
    SELECT
        day,
        sum(completed) AS completed, sum(incomplete) AS incomplete,
        sum(failed) AS failed, sum(cancelled) AS cancelled,
        sum(deleted_forget) AS deleted_forget, sum(deleted_retention) AS deleted_retention,
        sum(archived) AS archived,
        sum(lost) AS lost, sum(in_flight) AS in_flight,
        sum(interrupted) AS interrupted, sum(not_stored) AS not_stored, sum(cuts) AS cuts
    FROM parts GROUP BY day),
named AS (
    SELECT *,
        completed + incomplete + failed + cancelled + deleted_forget + deleted_retention + lost
            + in_flight + interrupted + not_stored AS admitted
    FROM summed)
SELECT
    day, admitted, completed, incomplete, failed, cancelled,
    deleted_forget + deleted_retention AS deleted, deleted_forget, deleted_retention, archived,
    lost, in_flight, interrupted, not_stored, cuts,
    CASE WHEN admitted > in_flight
         THEN (1000000 * (admitted - in_flight - interrupted - not_stored - lost)
               / (admitted - in_flight)) / 10000.0
         ELSE 100.0 END AS percent
FROM named;

CREATE VIEW generations AS -- Everything about a result in one flat row, its first choice included.
SELECT
    r.seq, r.id, r.device_id, r.boot_id, r.boot_seq, r.operation, r.endpoint, r.status,
    coalesce(r.response_model, r.request_model) AS model, r.created_at / 3600000 AS hour,
    r.request_model, r.response_model, r.engine, r.engine_version,
    q.input_text,
    o.output_text, o.reasoning, o.tool_calls,
    CASE WHEN p.repair_id IS NULL THEN o.output_json ELSE p.output_json END AS output_json,
    coalesce(p.json_state, o.json_state) AS json_state,
    CASE WHEN p.repair_id IS NULL THEN o.schema_valid ELSE p.schema_valid END AS schema_valid,
    CASE WHEN p.repair_id IS NULL THEN o.schema_error ELSE p.schema_error END AS schema_error,
    o.constraint_holds,
    (SELECT count(*) FROM outputs AS c WHERE c.seq = r.seq) AS choices,
    r.finish_reason, r.stream, r.params,
    r.input_tokens, r.output_tokens, r.cached_tokens, r.reasoning_tokens,
    r.latency_ms, r.ttft_ms, r.queue_ms,
    strftime('%Y-%m-%dT%H:%M:%fZ', r.created_at / 1000.0, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', r.completed_at / 1000.0, 'unixepoch') AS completed_at,
    r.tenant, r.user_id,
    coalesce(
        (SELECT a.value FROM annotations AS a WHERE a.id = r.id AND a.kind = 'metadata'
         ORDER BY a.annotation_id DESC LIMIT 1),
        r.metadata) AS metadata,
    r.caller_rid, r.trace_id, r.http_status, r.error_type, r.error_message
FROM results AS r
LEFT JOIN outputs AS o ON o.seq = r.seq AND o.choice_index = 0
LEFT JOIN requests AS q ON q.seq = r.seq
LEFT JOIN repairs AS p ON p.repair_id = (
    SELECT max(n.repair_id) FROM repairs AS n WHERE n.id = r.id AND n.choice_index = 0)
WHERE r.operation <> 'prefix_cache';

CREATE VIEW sglang_inference_results AS -- The table of the usual pipeline, for queries written against it.
SELECT
    r.id AS request_id,
    coalesce(r.response_model, r.request_model) AS model_name,
    q.input_text AS prompt,
    coalesce(
        CASE WHEN p.repair_id IS NULL THEN o.output_json ELSE p.output_json END,
        o.output_text) AS output_data,
    r.output_tokens AS generated_tokens,
    r.latency_ms AS latency_ms,
    strftime('%Y-%m-%dT%H:%M:%fZ', r.created_at / 1000.0, 'unixepoch') AS created_at
FROM results AS r
LEFT JOIN outputs AS o ON o.seq = r.seq AND o.choice_index = 0
LEFT JOIN requests AS q ON q.seq = r.seq
LEFT JOIN repairs AS p ON p.repair_id = (
    SELECT max(n.repair_id) FROM repairs AS n WHERE n.id = r.id AND n.choice_index = 0)
WHERE r.operation <> 'prefix_cache';

CREATE VIEW structured AS -- One row per choice of which JSON, a regex or a grammar was asked, or that calls tools; as the newest repair has it.
SELECT
    r.seq, r.id, o.choice_index, coalesce(r.response_model, r.request_model) AS model,
    date(r.created_at / 1000, 'unixepoch') AS day, r.created_at, r.endpoint, r.tenant,
    coalesce(p.json_state, o.json_state) AS json_state,
    CASE WHEN p.repair_id IS NULL THEN o.output_json ELSE p.output_json END AS output_json,
    CASE WHEN p.repair_id IS NULL THEN o.schema_valid ELSE p.schema_valid END AS schema_valid,
    CASE WHEN p.repair_id IS NULL THEN o.schema_error ELSE p.schema_error END AS schema_error,
    CASE WHEN p.repair_id IS NULL THEN o.repair_log ELSE p.repair_log END AS repair_log,
    CASE WHEN p.repair_id IS NULL THEN o.repairer ELSE p.repairer END AS repairer,
    o.constraint_kind, o.constraint_holds, o.constraint_error,
    o.json_state AS recorded_json_state, o.repairer AS recorded_repairer
FROM outputs AS o
JOIN results AS r ON r.seq = o.seq
LEFT JOIN repairs AS p ON p.repair_id = (
    SELECT max(n.repair_id) FROM repairs AS n WHERE n.id = r.id AND n.choice_index = o.choice_index)
WHERE o.json_state <> 'text' OR o.constraint_kind IS NOT NULL;

CREATE VIEW usage_by_day AS -- Requests and tokens per UTC day and model.
SELECT
    substr(hour, 1, 10) AS day,
    model,
    sum(requests) AS requests,
    sum(completed) AS completed,
    sum(not_completed) AS not_completed,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(cached_tokens) AS cached_tokens,
    sum(latency_ms_sum) / sum(requests) AS latency_ms_mean,
    sum(ttft_ms_sum) / sum(ttft_count) AS ttft_ms_mean
FROM usage_by_hour
GROUP BY day, model;

CREATE VIEW usage_by_hour AS -- Requests, tokens and times per UTC hour and model.
SELECT
    strftime('%Y-%m-%dT%H:00:00Z', created_at / 3600000 * 3600, 'unixepoch') AS hour,
    coalesce(response_model, request_model) AS model,
    count(*) AS requests,
    count(*) FILTER (WHERE status = 'completed') AS completed,
    count(*) - count(*) FILTER (WHERE status = 'completed') AS not_completed,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(cached_tokens) AS cached_tokens,
    sum(latency_ms) AS latency_ms_sum,
    sum(ttft_ms) AS ttft_ms_sum,
    count(ttft_ms) AS ttft_count
FROM results
WHERE operation <> 'prefix_cache'
GROUP BY coalesce(response_model, request_model), created_at / 3600000;

CREATE VIEW v_openai AS -- Results under the names of OpenAI's API.
SELECT
    id,
    CASE operation WHEN 'chat' THEN 'chat.completion' WHEN 'embeddings' THEN 'list' ELSE 'text_completion' END AS object,
    created_at / 1000 AS created,
    coalesce(response_model, request_model) AS model,
    (SELECT o.output_text FROM outputs AS o WHERE o.seq = results.seq AND o.choice_index = 0) AS content,
    finish_reason,
    input_tokens AS prompt_tokens,
    output_tokens AS completion_tokens,
    input_tokens + output_tokens AS total_tokens,
    cached_tokens,
    reasoning_tokens,
    user_id AS user,
    metadata
FROM results
WHERE operation <> 'prefix_cache';

CREATE VIEW v_otel AS -- Results under the attribute names of OpenTelemetry's GenAI conventions (in development, 2026-11).
SELECT
    operation AS "gen_ai.operation.name",
    engine AS "gen_ai.provider.name",
    request_model AS "gen_ai.request.model",
    response_model AS "gen_ai.response.model",
    id AS "gen_ai.response.id",
    json_array(finish_reason) AS "gen_ai.response.finish_reasons",
    input_tokens AS "gen_ai.usage.input_tokens",
    output_tokens AS "gen_ai.usage.output_tokens",
    conversation_id AS "gen_ai.conversation.id",
    latency_ms / 1000.0 AS "gen_ai.server.request.duration",
    ttft_ms / 1000.0 AS "gen_ai.server.time_to_first_token",
    error_type AS "error.type",
    trace_id,
    device_id AS "host.name",
    created_at AS time_unix_ms
FROM results
WHERE operation <> 'prefix_cache';

