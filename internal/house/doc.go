// Package house holds the rules of the house as tests: which room may import which,
// what a decider may not touch, how files, tests and doc comments must look. Each rule
// stands beside its reason, and beside a planted offence that it must catch.
//
// The rooms and their order are those of ARCHITECTURE.md; a test compares the two.
// Nothing imports this package.
package house
