-- What the release at commit 4c138ec creates in an empty database.
CREATE TABLE keys (
    id VARCHAR(32) NOT NULL,
    owner VARCHAR(128) NOT NULL,
    token_sha256 VARCHAR(64) NOT NULL,
    scopes VARCHAR(256) NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    queries_limit BIGINT NOT NULL,
    queries_used BIGINT DEFAULT '0' NOT NULL,
    queries_held BIGINT DEFAULT '0' NOT NULL,
    logit_vectors_limit BIGINT,
    logit_vectors_used BIGINT DEFAULT '0' NOT NULL,
    logit_vectors_held BIGINT DEFAULT '0' NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT queries_count CHECK (queries_used >= 0 AND queries_held >= 0),
    CONSTRAINT queries_fit CHECK (queries_used + queries_held <= queries_limit),
    CONSTRAINT logit_vectors_count CHECK (logit_vectors_used >= 0 AND logit_vectors_held >= 0),
    CONSTRAINT logit_vectors_fit CHECK (logit_vectors_limit IS NULL OR logit_vectors_used + logit_vectors_held <= logit_vectors_limit),
    UNIQUE (token_sha256)
);
CREATE TABLE images (
    owner VARCHAR NOT NULL,
    digest VARCHAR(64) NOT NULL,
    bytes BIGINT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    PRIMARY KEY (owner, digest)
);
CREATE TABLE image_sets (
    owner VARCHAR NOT NULL,
    id VARCHAR(36) NOT NULL,
    name VARCHAR NOT NULL,
    count INTEGER NOT NULL,
    digests BYTEA NOT NULL,
    PRIMARY KEY (owner, id)
);
CREATE TABLE requests (
    key_id VARCHAR(32) NOT NULL,
    idem_key VARCHAR(128) NOT NULL,
    fingerprint VARCHAR(128) NOT NULL,
    state VARCHAR(8) NOT NULL,
    attempt INTEGER NOT NULL,
    holder VARCHAR(64) NOT NULL,
    held_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    queries BIGINT NOT NULL,
    calls BIGINT NOT NULL,
    logit_vectors BIGINT NOT NULL,
    texts BIGINT NOT NULL,
    settled_at BIGINT,
    reply_sha256 VARCHAR(64),
    reply BYTEA,
    PRIMARY KEY (key_id, idem_key),
    CONSTRAINT state_known CHECK (state IN ('held', 'settled', 'released', 'expired')),
    CONSTRAINT settled_when CHECK ((state = 'settled') = (settled_at IS NOT NULL)),
    CONSTRAINT settled_what CHECK ((state = 'settled') = (reply_sha256 IS NOT NULL)),
    CONSTRAINT cost_count CHECK (queries >= 0 AND calls >= 0 AND logit_vectors >= 0 AND texts >= 0),
    FOREIGN KEY(key_id) REFERENCES keys (id)
);
CREATE INDEX requests_replies ON requests (settled_at) WHERE reply IS NOT NULL;
CREATE INDEX requests_held ON requests (key_id, expires_at) WHERE state = 'held';
CREATE TABLE ledger (
    id BIGSERIAL NOT NULL,
    at BIGINT NOT NULL,
    key_id VARCHAR(32) NOT NULL,
    request_id VARCHAR(128) NOT NULL,
    model VARCHAR NOT NULL,
    image_set VARCHAR NOT NULL,
    prompts BIGINT NOT NULL,
    images BIGINT NOT NULL,
    classes BIGINT NOT NULL,
    queries BIGINT NOT NULL,
    calls BIGINT NOT NULL,
    logit_vectors BIGINT NOT NULL,
    texts BIGINT NOT NULL,
    tag VARCHAR(64) NOT NULL,
    milliseconds BIGINT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(key_id, request_id) REFERENCES requests (key_id, idem_key),
    CONSTRAINT charged_once UNIQUE (key_id, request_id)
);
CREATE INDEX ledger_pages ON ledger (key_id, id);
