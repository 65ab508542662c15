//! Tests of sessions against each other and against scripted peers.
