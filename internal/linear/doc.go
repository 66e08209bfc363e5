// Package linear holds concurrent histories of a [dedup.Store] against the rules of package transition: for every history
// there must be an order of its calls, each at one moment between its begin and its end, in which a single record that is
// changed by these rules would have given the same answers. Unlike a count of what went wrong it needs no idea of what can
// go wrong.
//
//	linear.Check(t, store, linear.Config{})
//
// Clients call the store at random, with holds that are their own, somebody else's or long gone. Leases are endless, or
// so short that they may be over at any moment, so that no clock has to be shared. A call whose answer was lost counts as one that may have
// happened at any later time, or never; a call that the store reports as not applied must have had no effect.
//
// A history that cannot be explained fails the test, and so does one whose check takes too long. Both are saved with a
// picture, for a browser, in the folder that IDEMQ_TEST_HISTORIES names, or else in the folder for temporary files.
package linear
