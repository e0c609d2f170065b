-- What is kept for how long: runs that somebody wants to keep, and what of a run has been collected.
-- An older server knows nothing of these columns and collects nothing.

ALTER TABLE run ADD COLUMN pinned_at INTEGER;          -- NULL: may be collected
ALTER TABLE run ADD COLUMN pinned_by TEXT;
ALTER TABLE run ADD COLUMN logs_collected_at INTEGER;  -- those of attempts that had ended by then are gone
ALTER TABLE run ADD COLUMN log_bytes INTEGER;          -- on disk, when its logs are packed; NULL: as they were written
ALTER TABLE run ADD COLUMN gone_at INTEGER;            -- not NULL: being removed, not to be shown
ALTER TABLE artifact ADD COLUMN collected_at INTEGER;  -- NULL: its object is there
CREATE INDEX run_pinned ON run (id) WHERE pinned_at IS NOT NULL;
CREATE INDEX run_gone ON run (id) WHERE gone_at IS NOT NULL;
CREATE INDEX run_unpacked ON run (finished_at) WHERE log_bytes IS NULL AND finished_at IS NOT NULL;
CREATE INDEX artifact_digest ON artifact (digest) WHERE collected_at IS NULL;
