-- Return what cursors are sealed with that carry a balance.
SELECT cursor_secret FROM installation
