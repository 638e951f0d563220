//! Tests of automatic login: the editing of gdm's file, and each display manager's files in a root of its own.

mod editing;
mod files;
