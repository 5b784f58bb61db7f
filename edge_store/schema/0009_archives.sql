-- What retention may not delete, and where it put away what it did.

CREATE TABLE holds ( -- What nobody may delete until the hold ends: results that a selection names, those to come too.
    hold_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms: when it began
    name TEXT NOT NULL, -- its name
    selection TEXT NOT NULL CHECK (json_valid(selection)), -- which results, JSON: the filters of `--since`, `--tenant` and so on; {} is all of them
    note TEXT NOT NULL, -- why, in the operator's words
    ended_at INTEGER -- UTC ms; NULL while it is in force
) STRICT;
CREATE UNIQUE INDEX holds_in_force ON holds (name) WHERE ended_at IS NULL;

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
CREATE INDEX archives_by_seq ON archives (seq_from, seq_to);
CREATE INDEX archives_under_way ON archives (archive_no) WHERE emptied_at IS NULL OR stale IS NOT NULL;

CREATE TABLE archived ( -- Which deletion has left its result, or its bodies, in which file.
    deletion_id INTEGER PRIMARY KEY REFERENCES deletions (deletion_id) ON DELETE CASCADE, -- the deletion
    archive_no INTEGER NOT NULL -- the file, in archives; no reference: to give up a file that was not whole would look through all of these
) STRICT;

-- Few are, of many deletions: what is in a file and was forgotten since is found by this.
CREATE INDEX deletions_forgotten ON deletions (seq) WHERE reason = 'forget';

DROP VIEW completeness_by_day;
DROP VIEW completeness;

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
    SELECT
        date(created_at / 1000, 'unixepoch') AS day,
        count(*) FILTER (WHERE status = 'completed'),
        count(*) FILTER (WHERE status = 'incomplete'),
        count(*) FILTER (WHERE status = 'failed'),
        count(*) FILTER (WHERE status = 'cancelled'),
        0, 0, 0, 0, 0, 0, 0, 0
    FROM results GROUP BY day
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
