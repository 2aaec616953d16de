// Package modelrepository serves the models of a folder in Triton's layout, without a fleet.
//
// The folder is read into values (what models there are, with which versions and files), the values are compared with
// what is loaded, and what differs is loaded or unloaded: configuration read and completed, checked against the model
// file before any runtime sees it, admitted, opened, warmed up, and only then put into the serving table. A load makes
// all that the configuration asks for or leaves everything as it was.
package modelrepository
