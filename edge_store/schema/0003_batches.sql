-- Files, batches and the queue. What becomes of a line is nowhere written down but in its results.

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
CREATE INDEX files_by_sha256 ON files (sha256);

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

CREATE TABLE batch_events ( -- What became of a batch. Rows are only added.
    event_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    batch_id TEXT NOT NULL REFERENCES batches (batch_id) ON DELETE CASCADE, -- the batch
    at INTEGER NOT NULL, -- UTC ms
    event TEXT NOT NULL CHECK (event IN ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelling', 'cancelled')), -- the state that it came to
    expires_at INTEGER, -- UTC ms: when its lines end, of in_progress
    detail TEXT NOT NULL CHECK (json_valid(detail)) -- lines, errors, counts, output files; JSON
) STRICT;
CREATE INDEX batch_events_by_batch ON batch_events (batch_id, event_no);

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
CREATE INDEX queued_requests_by_key ON queued_requests (key_hash) WHERE key_hash IS NOT NULL;

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
CREATE INDEX line_marks_by_line ON line_marks (batch_id, custom_id, mark_no);

CREATE TABLE queue_switches ( -- `edge-store queue pause` and `resume`. The newest counts.
    switch_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms
    is_paused INTEGER NOT NULL -- 1 from a pause to the next resume
) STRICT;

-- A line is completed once: a second completed result of it cannot be stored. The same index finds
-- its failed attempts.
CREATE UNIQUE INDEX results_by_line ON results (
    batch_id, custom_id, iif(status = 'completed', 0, seq))
WHERE batch_id IS NOT NULL;
