-- What is deleted by its age is found without a look at all rows.
CREATE INDEX provider_objects_created ON provider_objects USING brin (created_at);
CREATE INDEX background_jobs_over ON background_jobs (done_at) WHERE done_at IS NOT NULL;
