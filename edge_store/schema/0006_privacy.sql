-- The tombstones of what was forgotten before it was a result, or beside one; those of results are in
-- deletions. And which request holds which image.

CREATE TABLE forgotten ( -- Goes to every copy, as the rows of deletions with the reason forget do.
    forgotten_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms
    what TEXT NOT NULL CHECK (what IN ('request', 'response', 'conversation', 'lines')), -- a queued request, a response without a result, a conversation with its items, lines of an uploaded or made file
    id TEXT NOT NULL -- its id; of a file the SHA-256 that it is named by
) STRICT;

CREATE TABLE request_blobs ( -- Where images and audio belong in a request's body: it is stored without them.
    seq INTEGER NOT NULL REFERENCES requests (seq) ON DELETE CASCADE, -- the result
    place INTEGER NOT NULL, -- order, from 0
    byte_offset INTEGER NOT NULL, -- in requests.request_body: its base64 is to be put in there
    is_escaped INTEGER NOT NULL, -- 1 if the slashes of its base64 are written \/
    sha256 TEXT NOT NULL REFERENCES blobs (sha256), -- which
    PRIMARY KEY (seq, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX request_blobs_by_sha256 ON request_blobs (sha256);

CREATE TABLE response_blobs ( -- The same for what was asked of a response.
    id TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE, -- the response's result
    place INTEGER NOT NULL, -- order, from 0
    byte_offset INTEGER NOT NULL, -- in responses.request: its base64 is to be put in there
    is_escaped INTEGER NOT NULL, -- 1 if the slashes of its base64 are written \/
    sha256 TEXT NOT NULL REFERENCES blobs (sha256), -- which
    PRIMARY KEY (id, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX response_blobs_by_sha256 ON response_blobs (sha256);

-- Whatever deletes a result or a response, the last one that has an image takes it along.
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
