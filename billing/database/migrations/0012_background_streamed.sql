-- Whether a client has streamed a response in the background again while it was worked on: what it read is known to nobody here.
ALTER TABLE background_jobs ADD COLUMN streamed boolean NOT NULL DEFAULT false;
