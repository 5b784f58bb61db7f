-- Which results are to be forgotten. `:expression` is put in as text: it is the operator's own SQL.

-- name: select_results_of_user
SELECT seq, id FROM results WHERE user_id = :user ORDER BY seq

-- name: select_results_where
SELECT seq, id FROM results LEFT JOIN requests USING (seq) WHERE :expression ORDER BY seq

-- name: select_ids_of
SELECT seq, id FROM results WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: select_forgotten_ids
SELECT id FROM deletions WHERE reason = 'forget' AND what = 'result'

-- name: select_seqs_of_ids
SELECT seq FROM results WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY seq
