-- What has not ended, and whose what is: so that nobody looks through all that has ended, or is
-- another's.

CREATE TABLE open_batches ( -- Batches that have not ended.
    batch_no INTEGER PRIMARY KEY REFERENCES batches (batch_no) ON DELETE CASCADE -- the batch
) STRICT;
INSERT INTO open_batches SELECT batch_no FROM batches AS b
WHERE (SELECT e.event FROM batch_events AS e WHERE e.batch_id = b.batch_id
       ORDER BY e.event_no DESC LIMIT 1)
    NOT IN ('failed', 'completed', 'expired', 'cancelled');

CREATE TABLE open_responses ( -- Responses in the background that have not ended, or not yet their place in their conversation.
    response_no INTEGER PRIMARY KEY REFERENCES responses (response_no) ON DELETE CASCADE -- the response
) STRICT;
INSERT INTO open_responses SELECT response_no FROM responses WHERE background;
DROP INDEX responses_in_background;

CREATE TABLE response_keys ( -- The responses that were asked for with an Idempotency-Key, and can be given again.
    id TEXT PRIMARY KEY REFERENCES responses (id) ON DELETE CASCADE, -- of the response, without `resp_`
    at INTEGER NOT NULL, -- UTC ms: when it was kept
    tenant TEXT, -- whose key
    key_hash BLOB NOT NULL, -- SHA-256 of the Idempotency-Key
    fingerprint BLOB NOT NULL -- SHA-256 of the request
) STRICT;
CREATE INDEX response_keys_by_key ON response_keys (key_hash, at);

CREATE INDEX batches_by_tenant ON batches (tenant);
CREATE INDEX files_by_tenant ON files (tenant);
CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX queued_requests_by_tenant ON queued_requests (tenant);
