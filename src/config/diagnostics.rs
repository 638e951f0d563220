//! What is wrong or doubtful in a runner configuration, and what to do about it.
