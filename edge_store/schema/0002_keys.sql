-- API keys, and the way to one tenant's results.

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

CREATE INDEX results_by_tenant ON results (tenant) WHERE tenant IS NOT NULL;
