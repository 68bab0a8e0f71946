"""A replica of an engine in virtual time: requests in, time stamps out, as fast as it can be computed."""
