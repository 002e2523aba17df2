//! Rates of a part's members: with SETUP, in place, and never more than the grant.
