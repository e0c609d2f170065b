-- Made from the migrations by the tests of kiln-store.
CREATE TABLE agent (
    id BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
);
CREATE TABLE artifact (
    run BIGINT NOT NULL,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    path TEXT NOT NULL,
    n_bytes BIGINT NOT NULL,
    digest TEXT NOT NULL,
    executable BOOLEAN NOT NULL,
    collected_at BIGINT,
    FOREIGN KEY (run) REFERENCES run(id) ON DELETE CASCADE,
    PRIMARY KEY (run, job, attempt, path)
);
CREATE TABLE delivery (
    id BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY,
    project BIGINT NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending'::text,
    note TEXT NOT NULL DEFAULT ''::text,
    n_tries BIGINT NOT NULL DEFAULT 0,
    received_at BIGINT NOT NULL,
    CHECK ((state = ANY (ARRAY['pending'::text, 'done'::text, 'quarantined'::text]))),
    FOREIGN KEY (project) REFERENCES project(id) ON DELETE CASCADE,
    PRIMARY KEY (id),
    UNIQUE (project, key)
);
CREATE TABLE event (
    run BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    job BIGINT,
    body TEXT NOT NULL,
    FOREIGN KEY (run) REFERENCES run(id) ON DELETE CASCADE,
    PRIMARY KEY (run, seq)
);
CREATE TABLE head (
    project BIGINT NOT NULL,
    ref TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    FOREIGN KEY (project) REFERENCES project(id) ON DELETE CASCADE,
    PRIMARY KEY (project, ref)
);
CREATE TABLE job (
    run BIGINT NOT NULL,
    job BIGINT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    attempt BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    log_bytes BIGINT NOT NULL,
    FOREIGN KEY (run) REFERENCES run(id) ON DELETE CASCADE,
    PRIMARY KEY (run, job)
);
CREATE TABLE job_key (
    run BIGINT NOT NULL,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    project BIGINT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    scope TEXT NOT NULL,
    parts TEXT NOT NULL,
    usable BOOLEAN NOT NULL,
    FOREIGN KEY (project) REFERENCES project(id) ON DELETE CASCADE,
    FOREIGN KEY (run) REFERENCES run(id) ON DELETE CASCADE,
    PRIMARY KEY (run, job, attempt)
);
CREATE TABLE plan (
    run BIGINT NOT NULL,
    body TEXT NOT NULL,
    FOREIGN KEY (run) REFERENCES run(id) ON DELETE CASCADE,
    PRIMARY KEY (run)
);
CREATE TABLE project (
    id BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    repo TEXT NOT NULL,
    default_branch TEXT,
    poll_every_s BIGINT,
    last_number BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
);
CREATE TABLE run (
    id BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY,
    project BIGINT NOT NULL,
    number BIGINT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    trigger TEXT NOT NULL,
    source TEXT NOT NULL,
    branch TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    n_jobs BIGINT NOT NULL,
    n_jobs_over BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    pinned_at BIGINT,
    pinned_by TEXT,
    logs_collected_at BIGINT,
    log_bytes BIGINT,
    gone_at BIGINT,
    FOREIGN KEY (project) REFERENCES project(id) ON DELETE CASCADE,
    PRIMARY KEY (id),
    UNIQUE (project, number)
);
CREATE TABLE schema_version (
    version BIGINT NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    kiln TEXT NOT NULL,
    applied_at BIGINT NOT NULL,
    PRIMARY KEY (version)
);
CREATE TABLE secret (
    id BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY,
    project BIGINT,
    name TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    set_at BIGINT NOT NULL,
    FOREIGN KEY (project) REFERENCES project(id) ON DELETE CASCADE,
    PRIMARY KEY (id)
);
CREATE INDEX artifact_digest ON artifact USING btree (digest) WHERE (collected_at IS NULL);
CREATE INDEX delivery_pending ON delivery USING btree (id) WHERE (state = 'pending'::text);
CREATE INDEX delivery_quarantined ON delivery USING btree (id) WHERE (state = 'quarantined'::text);
CREATE INDEX event_job ON event USING btree (run, job, seq) WHERE (job IS NOT NULL);
CREATE INDEX job_key_key ON job_key USING btree (project, key, run);
CREATE INDEX job_key_name ON job_key USING btree (project, name, run);
CREATE INDEX job_key_parts ON job_key USING btree (parts);
CREATE INDEX run_branch ON run USING btree (branch, id) WHERE (branch IS NOT NULL);
CREATE INDEX run_gone ON run USING btree (id) WHERE (gone_at IS NOT NULL);
CREATE INDEX run_pinned ON run USING btree (id) WHERE (pinned_at IS NOT NULL);
CREATE INDEX run_project_branch ON run USING btree (project, branch, number) WHERE (branch IS NOT NULL);
CREATE INDEX run_project_state ON run USING btree (project, state, number);
CREATE INDEX run_state ON run USING btree (state, id);
CREATE INDEX run_unpacked ON run USING btree (finished_at) WHERE ((log_bytes IS NULL) AND (finished_at IS NOT NULL));
CREATE INDEX secret_project ON secret USING btree (project);
CREATE UNIQUE INDEX secret_name ON secret USING btree (COALESCE(project, (0)::bigint), name);
