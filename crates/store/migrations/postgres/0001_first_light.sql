-- The tables that a push needs to become a run, and a run to be watched and kept.
--
-- Times are milliseconds since the epoch. JSON is kept as the text that was frozen. What is large
-- (plans, events) stands apart from what is listed (runs, jobs). Ids are never used again, because
-- files are named by them.

CREATE TABLE project (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    repo TEXT NOT NULL,
    default_branch TEXT,
    poll_every_s BIGINT,                 -- NULL: not polled
    last_number BIGINT NOT NULL DEFAULT 0,  -- of its newest run; counts without gaps
    created_at BIGINT NOT NULL
);

-- Refs as last seen: what a poll compares with.
CREATE TABLE head (
    project BIGINT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    ref TEXT NOT NULL,                    -- refs/heads/main
    commit_id TEXT NOT NULL,
    PRIMARY KEY (project, ref)
);

-- The inbox: pushes that were acknowledged.
CREATE TABLE delivery (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project BIGINT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    key TEXT NOT NULL,                    -- the same push told twice has the same key
    body TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'quarantined')),
    note TEXT NOT NULL DEFAULT '',        -- what came of it, or why the last try failed
    n_tries BIGINT NOT NULL DEFAULT 0,
    received_at BIGINT NOT NULL,
    UNIQUE (project, key)
);
CREATE INDEX delivery_pending ON delivery (id) WHERE state = 'pending';
CREATE INDEX delivery_quarantined ON delivery (id) WHERE state = 'quarantined';

CREATE TABLE run (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project BIGINT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,                          -- JSON
    trigger TEXT NOT NULL,                -- JSON
    source TEXT NOT NULL,                 -- JSON
    branch TEXT,                          -- of the trigger, for lists
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    n_jobs BIGINT NOT NULL,
    n_jobs_over BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,            -- compare-and-set: whoever appends must have seen it
    UNIQUE (project, number)
);
CREATE INDEX run_project_branch ON run (project, branch, number) WHERE branch IS NOT NULL;
CREATE INDEX run_project_state ON run (project, state, number);
CREATE INDEX run_branch ON run (branch, id) WHERE branch IS NOT NULL;
CREATE INDEX run_state ON run (state, id);

CREATE TABLE plan (
    run BIGINT PRIMARY KEY REFERENCES run (id) ON DELETE CASCADE,
    body TEXT NOT NULL                    -- JSON, frozen
);

CREATE TABLE event (
    run BIGINT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,                 -- from 1, without gaps
    job BIGINT,                          -- of the lease that it speaks of
    body TEXT NOT NULL,                   -- JSON
    PRIMARY KEY (run, seq)
);
CREATE INDEX event_job ON event (run, job, seq) WHERE job IS NOT NULL;

CREATE TABLE job (
    run BIGINT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    job BIGINT NOT NULL,                 -- place in the plan
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,                          -- JSON
    attempt BIGINT NOT NULL,             -- the newest; 0: none yet
    started_at BIGINT,
    finished_at BIGINT,
    log_bytes BIGINT NOT NULL,
    PRIMARY KEY (run, job)
);

CREATE TABLE artifact (
    run BIGINT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    path TEXT NOT NULL,
    n_bytes BIGINT NOT NULL,
    digest TEXT NOT NULL,
    executable BOOLEAN NOT NULL,
    PRIMARY KEY (run, job, attempt, path)
);

CREATE TABLE agent (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    labels TEXT NOT NULL                  -- JSON
);

CREATE TABLE secret (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project BIGINT REFERENCES project (id) ON DELETE CASCADE,  -- NULL: of every project
    name TEXT NOT NULL,
    sealed BYTEA NOT NULL,                -- ciphertext
    set_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX secret_name ON secret (COALESCE(project, 0), name);
CREATE INDEX secret_project ON secret (project);
