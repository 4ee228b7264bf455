"""The domain on one database, as for the tests of `billing`."""

from tests.billing.conftest import billing as billing
