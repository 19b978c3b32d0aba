"""The plug-in API, the loading of processors, and the calling of user code."""
