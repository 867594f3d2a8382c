{
  lib,
  openssl,
  python3Packages,
}:

python3Packages.buildPythonApplication {
  pname = "nix-ferry";
  version = builtins.head (
    builtins.match ".*__version__ = \"([^\"]+)\".*" (builtins.readFile ../hook/__init__.py)
  );
  pyproject = true;
  src = lib.cleanSource ../.;

  build-system = with python3Packages; [
    cffi
    setuptools
  ];
  dependencies = with python3Packages; [
    cffi
    click
    jeepney
    rich
    tomli
  ];
  buildInputs = [ openssl ];

  pythonImportsCheck = [ "hook._native" ];
  # The tests make namespaces and start daemons, which a sandbox does not allow.
  doCheck = false;

  meta = {
    description = "A drop-in replacement for Nix's build hook";
    license = lib.licenses.mit;
    mainProgram = "nix-ferry";
    platforms = lib.platforms.linux;
  };
}
