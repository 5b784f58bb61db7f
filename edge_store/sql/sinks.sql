-- Sinks: how far each is, what is next for it, and what it has refused.

-- name: select_sink
SELECT s.name, s.at, s.timeline, s.seq, s.delivered, s.skipped, s.orders, s.failure, s.failing_since,
    (SELECT count(*) FROM sink_letters AS l WHERE l.name = s.name) AS letters
FROM sinks AS s WHERE s.name = :name

-- name: select_sinks
SELECT name FROM sinks ORDER BY name

-- name: insert_sink
INSERT INTO sinks VALUES (:name, :at, :timeline, :seq, 0, 0, 0, NULL, NULL)

-- name: update_sink
UPDATE sinks SET at = :at, timeline = :timeline, seq = :seq, delivered = :delivered,
    skipped = :skipped, failure = :failure, failing_since = :failing_since
WHERE name = :name AND orders = :orders

-- name: skip_sink
UPDATE sinks SET seq = :seq, timeline = :timeline, orders = orders + 1, skipped = skipped + :skipped
WHERE name = :name

-- name: order_sink
UPDATE sinks SET orders = orders + 1 WHERE name = :name

-- name: count_sink_results
SELECT count(*) FROM results WHERE seq > :after AND seq <= :upto

-- name: count_sink_deletions
SELECT count(DISTINCT seq) FROM deletions WHERE seq > :after AND seq <= :upto AND what = 'result'

-- name: select_sink_results
SELECT r.* FROM results AS r
WHERE r.seq > :after AND r.seq <= :upto AND 1 = 1
    AND (:with_prefix_cache OR r.operation <> 'prefix_cache')
ORDER BY r.seq LIMIT :limit

-- name: select_sink_result
SELECT * FROM results WHERE seq = :seq AND id = :id

-- name: select_input_text
SELECT input_text FROM requests WHERE seq = :seq

-- name: insert_sink_letter
INSERT INTO sink_letters (name, at, seq, id, again, error) VALUES (:name, :at, :seq, :id, 0, :error)

-- name: select_sink_letters
SELECT letter_no, at, seq, id, again, error FROM sink_letters
WHERE name = :name AND (NOT :again OR again = 1) ORDER BY letter_no LIMIT :limit

-- name: retry_sink_letters
UPDATE sink_letters SET again = 1 WHERE name = :name AND (:id IS NULL OR id = :id)

-- name: refuse_sink_letter
UPDATE sink_letters SET again = 0, at = :at, error = :error WHERE letter_no = :letter_no

-- name: delete_sink_letter
DELETE FROM sink_letters WHERE letter_no = :letter_no

-- name: delete_sink_letters
DELETE FROM sink_letters WHERE name = :name AND (:id IS NULL OR id = :id)
