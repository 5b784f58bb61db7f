-- What `edge-store demo` asks; shown to people, so each is a question of one or two lines.

-- name: tour_answers
SELECT json_state, schema_valid, stream, output_text FROM generations ORDER BY seq

-- name: tour_completeness
SELECT state, admitted, completed, incomplete, interrupted, percent FROM completeness
ORDER BY boot_no

-- name: tour_fleet
SELECT device_id, status, count(*) AS results, min(created_at) AS first, max(created_at) AS last
FROM generations GROUP BY device_id, status

-- name: tour_stored
SELECT id, output_text, json_state, schema_valid FROM generations WHERE status = 'completed'
