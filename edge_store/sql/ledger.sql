-- What `edge-store ledger` shows.

-- name: select_ledger_by_boot
SELECT
    boot_no, started_at, state, ended_at, admitted, completed, incomplete, failed, cancelled,
    deleted_forget, deleted_retention, lost, in_flight, interrupted, not_stored, percent,
    unknown_after, unknown_until
FROM completeness ORDER BY boot_no

-- name: select_ledger_by_day
SELECT
    day, admitted, completed, incomplete, failed, cancelled, deleted_forget, deleted_retention,
    lost, in_flight, interrupted, not_stored, cuts, percent
FROM completeness_by_day ORDER BY day

-- name: select_cuts
SELECT boot_no, started_at, interrupted, unknown_after, unknown_until
FROM completeness WHERE state = 'interrupted' ORDER BY boot_no
