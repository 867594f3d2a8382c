# The packages that are used, none of which can be built.
system:
let
  package =
    name: attributes:
    derivation {
      inherit name system;
      builder = "/bin/false";
    }
    // attributes;
  pkgs = {
    openssl = package "openssl" { };
    python3Packages = {
      cffi = package "cffi" { };
      click = package "click" { };
      jeepney = package "jeepney" { };
      rich = package "rich" { };
      tomli = package "tomli" { };
      setuptools = package "setuptools" { };
      buildPythonApplication =
        {
          pname,
          version,
          pyproject,
          src,
          build-system,
          dependencies,
          buildInputs,
          pythonImportsCheck,
          doCheck,
          meta,
        }:
        assert builtins.pathExists (src + "/pyproject.toml");
        package "${pname}-${version}" {
          inherit version meta;
          inputs = map (input: input.name) (build-system ++ dependencies ++ buildInputs);
        };
    };
    formats.toml = { }: {
      type = builtins.isAttrs;
      generate = name: value: "${name}: ${builtins.toJSON value}";
    };
    lib = import ./lib.nix;
    callPackage = file: given: let function = import file; in function (
      builtins.intersectAttrs (builtins.functionArgs function) pkgs // given
    );
  };
in
pkgs
